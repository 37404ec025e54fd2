/** What a protocol class says about itself, checked once; and what an object of it wants of a connection. */
import type { SymbolList } from '../codec/fields.js';
import * as c from '../constants.js';
import { MilterError, show } from '../errors.js';
import { protocolNames } from '../names.js';
import { CALLBACKS, checkMarkable, isMarked, type Callback, type Mark } from './marks.js';
import type { Wants } from './negotiate.js';
import { actionBits, careful, errorPolicy, protocolBits, type CheckedOptions, type ErrorPolicy } from './options.js';
import { brandOf, type Host, type MilterProtocol, type ProtocolBrand, type ProtocolClass } from './protocol.js';
import { STAGE_NAMES, STAGES, type Stage } from '../stages.js';

/** The stages that macros can be asked for. */
const MACRO_STAGES = STAGE_NAMES.filter((stage) => STAGES[stage].macros !== undefined);

/** Sendmail's MAXFILTERMACROS. */
const MAX_MACROS = 50;

/** A protocol class and the options it runs with. */
export class MilterClass {
  readonly Milter: ProtocolClass;
  readonly options: CheckedOptions;
  readonly errorPolicy: ErrorPolicy;
  /** The callbacks that are to run in a thread, where there are any. */
  readonly inThread: ReadonlySet<Callback>;
  readonly #brand: ProtocolBrand;
  readonly #noReply: readonly Callback[];
  readonly #noCallback: readonly Callback[];
  readonly #macros: readonly SymbolList[];
  readonly #smfipOptions: number;
  readonly #required: number;
  readonly #warned = new Set<string>();

  /** @throws MilterError ERR_MILTER_OPTION */
  constructor(Milter: ProtocolClass, options: CheckedOptions) {
    const brand = brandOf(Milter);
    if (brand === undefined) {
      throw new MilterError(
        'ERR_MILTER_OPTION',
        `MyMilter must be a class that extends MilterProtocol, got ${show(Milter)}`,
      );
    }
    this.Milter = Milter;
    this.options = { ...options, log: careful(options.log) };
    this.errorPolicy = options.errorPolicy ?? Milter.errorPolicy ?? 'tempfail';
    errorPolicy('static errorPolicy', this.errorPolicy);
    this.#brand = brand;
    this.#noReply = markedStages(Milter.noReply, 'noReply');
    this.#noCallback = markedStages(Milter.noCallback, 'noCallback');
    this.inThread = this.#threaded(markedStages(Milter.callInThread, 'callInThread'));
    protocolBits('static smfipOptions', Milter.smfipOptions ?? 0);
    actionBits('static required', Milter.required ?? 0);
    this.#smfipOptions = options.smfipOptions | (Milter.smfipOptions ?? 0);
    this.#required = options.required | (Milter.required ?? 0);
    this.#macros = this.#macroLists(Milter.macros);
  }

  /** A new object, which works through the host. */
  open(host: Host): MilterProtocol {
    return this.#brand.open(this.Milter, host);
  }

  /**
   * What an object wants of the mail server, and which callbacks are to be called. The object is asked, not its class:
   * `header = (key, val) => …` is an override as well.
   */
  wants(milter: MilterProtocol): { wants: Wants; callbacks: ReadonlySet<Stage> } {
    let protocol = this.#smfipOptions;
    const callbacks = new Set<Stage>();
    for (const stage of STAGE_NAMES) {
      const row = STAGES[stage];
      const callback = milter[stage];
      const overridden = callback !== this.#brand.base[stage];
      const marked = (mark: Mark, list: readonly Callback[]): boolean =>
        list.includes(stage) || isMarked(callback, mark);
      if (!overridden || marked('noCallback', this.#noCallback)) protocol |= row.no;
      else if ((this.#smfipOptions & (row.no | row.nr)) !== 0)
        this.#warnOfBits(stage, this.#smfipOptions & (row.no | row.nr));
      if (overridden && marked('noReply', this.#noReply)) protocol |= row.nr;
      if ((protocol & row.no) === 0) callbacks.add(stage);
    }
    const wants = { actions: this.options.smfifOptions, required: this.#required, protocol, macros: this.#macros };
    return { wants, callbacks };
  }

  /** The class is asked: what is decorated is a method of it. */
  #threaded(listed: readonly Callback[]): ReadonlySet<Callback> {
    const { prototype } = this.Milter as { prototype: MilterProtocol };
    return new Set(CALLBACKS.filter((name) => listed.includes(name) || isMarked(prototype[name], 'callInThread')));
  }

  #warnOfBits(stage: Stage, mask: number): void {
    const names = protocolNames(mask).join(', ');
    this.#warnOnce(`smfipOptions has ${names}, which wins over ${this.Milter.name}'s own ${stage}()`);
  }

  #warnOnce(message: string): void {
    if (this.#warned.has(message)) return;
    this.#warned.add(message);
    this.options.log.warn({ milter: this.Milter.name }, message);
  }

  #macroLists(request: ProtocolClass['macros']): readonly SymbolList[] {
    if (request === undefined) return [];
    if (typeof request !== 'object' || request === null) {
      throw new MilterError('ERR_MILTER_OPTION', `static macros must be an object of arrays, got ${show(request)}`);
    }
    const byStage = new Map<number, string>();
    for (const [stage, names] of Object.entries(request as Record<string, readonly string[]>)) {
      const number = MACRO_STAGES.includes(stage as Stage) ? STAGES[stage as Stage].macros : undefined;
      if (number === undefined) {
        throw new MilterError('ERR_MILTER_OPTION', `static macros: ${stage} is none of ${MACRO_STAGES.join(', ')}`);
      }
      byStage.set(number, macroNames(stage, names));
      if (names.length === 0) {
        this.#warnOnce(`static macros: an empty list for ${stage} means none to Sendmail and the default to Postfix`);
      }
    }
    // Sendmail looks at the flag of the list for the end of headers to choose the one for the end of the message.
    const eom = byStage.get(c.SMFIM_EOM);
    if (eom !== undefined && !byStage.has(c.SMFIM_EOH)) byStage.set(c.SMFIM_EOH, eom);
    return [...byStage].sort((a, b) => a[0] - b[0]).map(([stage, names]) => ({ stage, names }));
  }
}

function macroNames(stage: string, names: readonly string[]): string {
  if (!Array.isArray(names)) {
    throw new MilterError('ERR_MILTER_OPTION', `static macros: ${stage} must be an array of names, got ${show(names)}`);
  }
  if (names.length > MAX_MACROS) {
    throw new MilterError(
      'ERR_MILTER_OPTION',
      `static macros: ${stage} has ${names.length} names; at most ${MAX_MACROS}`,
    );
  }
  return names.map((name) => macroName(stage, name)).join(' ');
}

/** The spelling mail servers use: longer names in braces, single letters without. */
function macroName(stage: string, name: unknown): string {
  if (typeof name !== 'string' || !/^(\{[^\s{},\0]+\}|[^\s{},\0]+)$/.test(name)) {
    throw new MilterError('ERR_MILTER_OPTION', `static macros: ${stage} has ${show(name)}, which is no macro's name`);
  }
  return name.length > 1 && !name.startsWith('{') ? `{${name}}` : name;
}

function markedStages(names: readonly string[] | undefined, mark: Mark): readonly Callback[] {
  if (names === undefined) return [];
  if (!Array.isArray(names)) {
    throw new MilterError('ERR_MILTER_OPTION', `static ${mark} must be an array of callback names, got ${show(names)}`);
  }
  return names.map((name) => checkMarkable(name, mark));
}
