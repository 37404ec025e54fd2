// What a test may ask of a real mail server, whichever it is.

/** A value, or what makes it from the server's `milterUnixDir`, whose path nobody knows before the start. */
export type FromUnixDir<T> = T | ((milterUnixDir: string) => T);

export interface MailServer {
  /** Where it speaks SMTP, on 127.0.0.1. */
  port: number;
  /** Its own folder, gone after stop(). */
  dir: string;
  /** A folder in it for milters' Unix sockets, which must be writable by all: Postfix connects as the user postfix. */
  milterUnixDir: string;
  /** What it has logged so far. */
  log(): Promise<string>;
  /** Hands in a message without SMTP, with the arguments of sendmail(1). */
  sendmail(args: string[], input: Buffer): Promise<void>;
  /** The messages it still has, as mailq(1) prints them. */
  postqueue(): Promise<string>;
  /** Tries the deferred messages again. */
  flush(): Promise<void>;
  /** Resolves when no process of it is left, nor its folder. */
  stop(): Promise<void>;
}
