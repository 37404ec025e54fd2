/** The error policy: what a failing callback is answered with. */
import { ACCEPT, REJECT, TEMPFAIL, type Verdict } from '../constants.js';
import type { MilterError } from '../errors.js';
import { thrownBy } from './failures.js';
import type { ErrorPolicy } from './options.js';
import type { Stage } from '../stages.js';
import { scopeOf } from './verdicts.js';

/** A policy that fails itself, or says what is not legal at the stage, is reported and taken for 'tempfail'. */
export function verdictFor(
  policy: ErrorPolicy,
  error: MilterError,
  stage: Stage,
  report: (error: MilterError) => void,
): Verdict {
  if (policy === 'accept') return ACCEPT;
  if (policy === 'reject') return REJECT;
  if (policy === 'tempfail') return TEMPFAIL;
  try {
    const verdict = policy(error, { stage });
    scopeOf(verdict, stage);
    return verdict;
  } catch (cause) {
    report(thrownBy(stage, cause, 'errorPolicy failed'));
    return TEMPFAIL;
  }
}
