'use strict';
/**
 * Haraka plugin: milters. What they are told, and what Haraka makes of what they want, is in README.md.
 */
/* global DENY, DENYSOFT, DENYSOFTDISCONNECT, OK */
const { bareAddress } = require('milter-stream');
const { Message, MilterChain, smtpReply } = require('milter-stream/client');

const LATER = { code: 451, enhanced: '4.3.0', lines: ['Try again later'] };
const MALFORMED = { code: 554, enhanced: '5.6.0', lines: ['Malformed message'] };

exports.register = function () {
  this.load_milter_ini();
  // First of all, so that nobody's answer keeps it from being heard.
  this.register_hook('rcpt', 'note_rcpt', -100);
  // Last: STARTTLS and AUTH are commands that other plugins know.
  this.register_hook('unrecognized_command', 'unrecognized', 100);
  this.register_hook('queue', 'drop', -100);
  this.register_hook('queue_outbound', 'drop', -100);
};

/** @throws where a milter cannot be used as it is written there */
exports.load_milter_ini = function () {
  const cfg = this.config.get('milter.ini', () => {
    try {
      this.load_milter_ini();
    } catch (error) {
      this.logerror(`milter.ini stays as it was: ${error.message}`);
    }
  });
  this.new_chain({ local: {}, remote: {} }, cfg);
  this.cfg = cfg;
};

/** Opens a chain of its own for each connection. */
exports.hook_connect = function (next, connection) {
  const { remote } = connection;
  leave(connection); // XCLIENT: somebody else is there now
  const chain = this.new_chain(connection);
  if (chain !== undefined) connection.notes.milter = { chain, last: Promise.resolve() };
  const known = remote.host && !['NXDOMAIN', 'DNSERROR', 'Unknown'].includes(remote.host);
  const hostname = known ? remote.host : `[${remote.ip}]`;
  const peer = { hostname, address: remote.ip, port: remote.port, helo: false };
  this.ask(next, connection, () => chain.connect(peer));
};

exports.new_chain = function ({ local, remote }, cfg = this.cfg) {
  const milters = Object.entries(cfg.milters ?? {}).map(([name, target]) =>
    Object.assign(optionsOf(cfg[name]), { name, target }),
  );
  if (milters.length === 0) return undefined;
  const daemon = { j: local.host, '{daemon_name}': 'Haraka', '{daemon_addr}': local.ip, v: local.info };
  const connect = { ...daemon, '{client_addr}': remote.ip };
  return new MilterChain(milters, { ...optionsOf(cfg.main), macros: { connect } });
};

exports.hook_helo = function (next, connection, name) {
  this.ask(next, connection, (chain) => chain.helo(name));
};

exports.hook_ehlo = exports.hook_helo;

exports.hook_mail = function (next, connection, [from, params]) {
  const { transaction, tls, notes } = connection;
  const i = transaction.uuid;
  const mailFrom = {
    i,
    '{auth_authen}': notes.auth_user,
    '{auth_type}': notes.auth_user && notes.auth_method,
    '{tls_version}': tls.cipher?.version,
    '{cipher}': tls.cipher?.name,
  };
  const macros = { mailFrom, rcpt: { i }, data: { i }, eoh: { i }, eob: { i } };
  this.ask(next, connection, (chain) => chain.mailFrom(from.original, esmtpArgs(params), { macros }));
};

/** The parameters of RCPT are told to this hook alone. */
exports.note_rcpt = function (next, connection, [, params]) {
  connection.transaction.notes.milter_rcpt = params;
  next();
};

/** Behind all the plugins that may refuse a recipient: milters hear of those that are taken. */
exports.hook_rcpt_ok = function (next, connection, rcpt) {
  const { milter_rcpt: params } = connection.transaction.notes;
  this.ask(next, connection, (chain) => chain.rcpt(rcpt.original, esmtpArgs(params)));
};

exports.hook_data = function (next, connection) {
  this.ask(next, connection, (chain) => chain.data());
};

exports.hook_data_post = function (next, connection) {
  const { transaction } = connection;
  this.ask(next, connection, async (chain) => {
    const result = await chain.message(contentOf(transaction));
    transaction.notes.milter_result = result;
    if (result.verdict === 'accept') await apply(transaction, result);
    return result;
  });
};

exports.unrecognized = function (next, connection, words) {
  this.ask(next, connection, (chain) => chain.unknown(words.filter(Boolean).join(' ')));
};

/** A message that is to vanish has been taken, and that is all. */
exports.drop = function (next, connection) {
  if (connection.transaction.notes.milter_discards) next(OK);
  else next();
};

exports.hook_reset_transaction = function (next, connection) {
  const abort = inTurn(connection, (chain) => chain.abort());
  abort.catch((error) => connection.logerror(this, error.message)).finally(() => next());
};

exports.hook_disconnect = function (next, connection) {
  leave(connection);
  next();
};

/** Does something with the milters in its turn, and answers the hook with what came of it. */
exports.ask = function (next, connection, act) {
  const { notes } = connection.transaction ?? {};
  if (connection.notes.milter === undefined || notes?.milter_discards) {
    next();
    return;
  }
  inTurn(connection, act).then(
    (result) => {
      if ((result.verdict ?? result.outcome) === 'discard') notes.milter_discards = true;
      refuse(next, smtpReply(result), result.hangUp);
    },
    (error) => {
      connection.logerror(this, error.message);
      refuse(next, error.code === 'ERR_MILTER_ARGUMENT' ? MALFORMED : LATER, false);
    },
  );
};

/** One thing after the other: when an SMTP client leaves, Haraka does not wait for the hook that is at work. */
async function inTurn(connection, act) {
  const talk = connection.notes.milter;
  if (talk === undefined) return undefined;
  const turn = talk.last.then(() => act(talk.chain));
  talk.last = turn.catch(() => {});
  return turn;
}

function leave(connection) {
  inTurn(connection, (chain) => chain.quit()).catch((error) => connection.logerror(error.message));
  delete connection.notes.milter;
}

function refuse(next, reply, hangUp) {
  if (reply === undefined) next();
  else if (reply.code >= 500) next(DENY, new DSN(reply));
  else next(hangUp ? DENYSOFTDISCONNECT : DENYSOFT, new DSN(reply)); // it is a 421
}

/** Haraka takes code and words from a class of this name, and a line of the reply from each line. */
class DSN {
  code;
  reply;

  constructor({ code, enhanced, lines }) {
    this.code = code;
    this.reply = lines.map((line) => (enhanced === '' ? line : `${enhanced} ${line}`)).join('\n');
  }

  /** For the log. */
  toString() {
    return this.reply;
  }
}

/** Options of the chain from a section of milter.ini. */
function optionsOf(section = {}) {
  const time = (seconds) => (seconds === undefined ? undefined : Number(seconds) * 1000);
  return given({
    defaultAction: section.default_action,
    connectTimeout: time(section.connect_timeout),
    commandTimeout: time(section.command_timeout),
    contentTimeout: time(section.content_timeout),
  });
}

function given(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function esmtpArgs(params = {}) {
  return Object.entries(params).map(([name, value]) => (value === null ? name : `${name}=${value}`));
}

/** Haraka's Received, which is its business and not the milters'. */
function isOwn(transaction, header) {
  return /^received:/i.test(header) && header.includes(` id ${transaction.uuid}`);
}

/** What the SMTP client sent, as far as Haraka still has it. */
async function* contentOf(transaction) {
  const { header, message_stream: stream, encoding } = transaction;
  for (const lines of header.lines())
    if (!isOwn(transaction, lines)) yield Buffer.from(lines.replaceAll(/\r?\n/g, '\r\n'), encoding);
  yield '\r\n';
  yield* stream[Symbol.asyncIterator]({ skip_headers: true });
}

/** What the milters want goes into what Haraka has, and only there: the rest stays as it is. */
async function apply(transaction, { message, modifications, envelope, quarantined }) {
  const edits = new Set(modifications.map(({ type }) => type));
  const { headers, body } = Message.parse(message);
  if (['addHeader', 'insHeader', 'chgHeader'].some((type) => edits.has(type))) setHeaders(transaction, headers);
  if (edits.has('replBody')) await setBody(transaction, Buffer.concat(body.pieces));
  setEnvelope(transaction, envelope);
  if (quarantined !== undefined) Object.assign(transaction.notes, { quarantine: true, quarantine_action: OK });
  if (envelope.to.length === 0) transaction.notes.milter_discards = true;
}

function setHeaders(transaction, headers) {
  const { header, message_stream: stream, encoding } = transaction;
  const own = header.lines().filter((lines) => isOwn(transaction, lines));
  const edited = headers.map(({ bytes }) => bytes.toString(encoding).replaceAll('\r\n', '\n'));
  const fresh = new header.constructor();
  fresh.parse([...own, ...edited]);
  Object.assign(header, fresh);
  stream.headers = header.header_list;
  transaction.reset_headers();
}

/** Haraka keeps a message line by line, with dots in front of dots; headers are read from elsewhere. */
async function setBody(transaction, body) {
  const { message_stream: old, cfg, uuid } = transaction;
  const stream = new old.constructor(cfg, `${uuid}.milter`, old.headers);
  for (const listener of old.listeners('error')) stream.on('error', listener);
  for (const header of old.headers) stream.add_line(header.replaceAll(/\r?\n/g, '\r\n'));
  stream.add_line('\r\n');
  for (let at = 0; at < body.length;) {
    const end = body.indexOf('\n', at) + 1 || body.length;
    const line = body.subarray(at, end);
    stream.add_line(line[0] === 0x2e ? Buffer.concat([Buffer.from('.'), line]) : line);
    at = end;
  }
  await new Promise((resolve) => stream.add_line_end(resolve));
  transaction.message_stream = stream;
  old.destroy();
}

function setEnvelope(transaction, { from, to }) {
  const { mail_from: sender, rcpt_to: recipients } = transaction;
  const address = (text) => new sender.constructor(`<${bareAddress(text)}>`);
  if (from !== sender.original) transaction.mail_from = address(from);
  transaction.rcpt_to = to.map((text) => recipients.find(({ original }) => original === text) ?? address(text));
}
