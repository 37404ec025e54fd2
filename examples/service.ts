/**
 * A milter as a service. systemd opens the socket, so that no connection is refused while the milter starts or restarts;
 * `systemctl reload` brings in a new version of this file while sessions in progress end on the old one.
 * The units are in examples/systemd/.
 *
 * By hand, Ctrl-C stops it:
 *
 *   npx tsx examples/service.ts inet:8891@127.0.0.1
 */
import { ForkFactory, MilterProtocol, runFilter, SMFIF_ADDHDRS, type Logger, type MilterError } from 'milter-stream';

export class ServiceMilter extends MilterProtocol {
  static readonly module = import.meta.url; // where worker processes find the class

  override eob() {
    this.addHeader('X-Service-Milter', this.macro('i') ?? 'no queue id');
  }
}

/** Lines for the journal, which takes the level from the front of them: sd-daemon(3). */
const print = (level: number, message: string): void =>
  console.error(process.env['JOURNAL_STREAM'] ? `<${level}>${message}` : message);

const log: Logger = {
  info: (details, message) => print(6, `${message} ${JSON.stringify(details)}`),
  warn: (_details, message) => print(4, message),
  error: (_details, message) => print(3, message),
};

try {
  const socket = process.argv[2] ?? 'systemd';
  const factory = new ForkFactory(socket, ServiceMilter, SMFIF_ADDHDRS, { log, logMessages: true });
  await runFilter(factory, { log });
} catch (error) {
  const { code, message } = error as MilterError;
  print(3, `${code}: ${message}`);
  process.exitCode = 1;
}
