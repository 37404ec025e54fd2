// The milter of all benches. It overrides every callback, and each adds up the lengths of all that it is given and of one
// macro, so that nothing is saved by not decoding. What does not come to the expected sum is refused, which no generator
// takes for an answer. Plain JavaScript because worker threads load it.
import { MilterProtocol } from 'milter-stream';

export class Counter extends MilterProtocol {
  static module = import.meta.url;

  sum = 0;
  /** What the sum must be at the end of the message: the first one of a connection has connect() and helo() before it. */
  due = this.context.sums.opening + this.context.sums.message;

  connect(hostname, family, ip) {
    this.sum += hostname.length + family.length + ip.length + this.id();
  }
  helo(name) {
    this.sum += name.length + this.id();
  }
  mailFrom(address, _macros, args) {
    this.sum += address.length + this.id();
    for (const arg of args) this.sum += arg.length;
  }
  rcpt(address, _macros, args) {
    this.sum += address.length + this.id();
    for (const arg of args) this.sum += arg.length;
  }
  data() {
    this.sum += this.id();
  }
  header(name, value) {
    this.sum += name.length + value.length + this.id();
  }
  eoh() {
    this.sum += this.id();
  }
  body(chunk) {
    this.sum += chunk.length + this.id();
  }
  eob() {
    const { sums, addsHeader, burn } = this.context;
    const sum = this.sum + this.id();
    const { due } = this;
    this.sum = 0;
    this.due = sums.message;
    if (sum !== due) this.setReply(550, '5.7.1', `The sum is ${sum} instead of ${due}`);
    else if (addsHeader) this.addHeader('X-Bench', 'seen');
    if (burn > 0) for (const until = performance.now() + burn; performance.now() < until;);
  }
  unknown(line) {
    this.sum += line.length + this.id();
  }
  abort() {
    this.sum = 0;
  }
  close() {
    this.sum = 0;
  }

  /** The length of the queue id, once there is one. */
  id() {
    return this.macro('i')?.length ?? 0;
  }
}

/** The same, where the mail server need not wait for an answer to each header and each piece of the body. */
export class QuietCounter extends Counter {
  static module = import.meta.url;
  static noReply = ['header', 'eoh', 'body'];
}
