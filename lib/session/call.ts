/** Calls the callback of a command with the arguments that the documentation gives it. */
import { plainAddress } from '../codec/peer.js';
import type { MacroDict } from './macro-dict.js';
import type { Family, MilterProtocol, Result } from './protocol.js';
import type { StageCommand } from '../stages.js';

export function call(milter: MilterProtocol, command: StageCommand, macros: MacroDict): Result {
  switch (command.type) {
    case 'connect':
      return milter.connect(
        command.hostname,
        family(command.family),
        plainAddress(command.address),
        command.port,
        macros,
      );
    case 'helo':
      return milter.helo(command.name, macros);
    case 'mailFrom':
      return milter.mailFrom(command.address, macros, splitArgs(command.args));
    case 'rcpt':
      return milter.rcpt(command.address, macros, splitArgs(command.args));
    case 'data':
      return milter.data(macros);
    case 'header':
      return milter.header(command.name, command.value, macros);
    case 'eoh':
      return milter.eoh(macros);
    case 'body':
      return milter.body(command.chunk, macros);
    case 'eob':
      return milter.eob(macros);
    case 'unknown':
      return milter.unknown(command.line, macros);
  }
}

/** What nobody knows is as good as unknown. */
function family(letter: string): Family {
  return letter === '4' || letter === '6' || letter === 'L' ? letter : 'U';
}

/** Some clients join the ESMTP arguments with spaces; none can hold one (RFC 5321, section 4.1.2). */
function splitArgs(args: readonly string[]): readonly string[] {
  if (!args.some((arg) => arg.includes(' '))) return args;
  return args.flatMap((arg) => arg.split(' ')).filter((arg) => arg !== '');
}
