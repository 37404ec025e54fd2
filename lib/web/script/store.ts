/** The page's script, first part: what is known of the sessions. Plain JavaScript with types in its comments. */
export const STORE = String.raw`
/** @typedef {import('./model.js').Item} Item */
/** @typedef {import('./viewer.js').Notice} Notice */
/** @typedef {import('./page.js').PageConfig} PageConfig */
/**
 * A line of the ladder: an item, and the macros that came before it.
 * @typedef {{ item: Item, macros: Item[] }} Row
 */
/** @typedef {{ n: number, queueId: string, sender: string, to: string[], recipients: number, refused: number, verdict: string, edits: number }} Message */
/**
 * @typedef {{
 *   id: number, name: string, rows: Row[], macros: Item[], missing: number, start: number, end: number, live: boolean,
 *   packets: number, problems: number, slow: number, messages: Map<number, Message>, card: HTMLElement | undefined
 * }} Session
 */

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);

/** @type {PageConfig} */
const config = JSON.parse(byId('config').textContent);

/** @type {Map<number, Session>} */
const sessions = new Map();

/** @type {Session | undefined} */
let selected;

/** @param {Item} item */
const isSlow = (item) => item.answers !== undefined && item.answers.ms >= config.slow;

/** @param {Item} item */
const isTrouble = (item) => item.problem !== undefined || item.kind === 'garbage' || item.kind === 'problem';

/** @param {Item} item @returns {Session} */
function sessionOf(item) {
  let session = sessions.get(item.id);
  if (session === undefined) {
    session = {
      id: item.id,
      name: item.session,
      rows: [],
      macros: [],
      missing: item.at,
      start: item.time,
      end: item.time,
      live: false,
      packets: 0,
      problems: 0,
      slow: 0,
      messages: new Map(),
      card: undefined,
    };
    sessions.set(item.id, session);
  }
  return session;
}

/** @param {Session} session @param {NonNullable<Item['news']>} news */
function hear(session, news) {
  let message = session.messages.get(news.n);
  if (message === undefined) {
    message = { n: news.n, queueId: '', sender: '', to: [], recipients: 0, refused: 0, verdict: '', edits: 0 };
    session.messages.set(news.n, message);
  }
  if (news.queueId !== undefined) message.queueId = news.queueId;
  if (news.sender !== undefined) message.sender = news.sender;
  if (news.verdict !== undefined) message.verdict = news.verdict;
  if (news.refused) message.refused++;
  if (news.edit) message.edits++;
  if (news.recipient === undefined) return;
  message.recipients++;
  if (message.to.length < 3) message.to.push(news.recipient);
}

/** Most macro packets that are shown with their command: a mail server sends one. */
const MOST_MACROS = 16;

/** @param {Item} item @returns {Session} */
function take(item) {
  const session = sessionOf(item);
  session.end = Math.max(session.end, item.time);
  if (config.live && item.session !== '') session.live = item.kind !== 'close';
  if (item.kind === 'packet') session.packets++;
  if (isTrouble(item)) session.problems++;
  if (isSlow(item)) session.slow++;
  if (item.news !== undefined) hear(session, item.news);
  if (item.name === 'macro' && item.from === 'mta' && item.problem === undefined) {
    session.macros.push(item);
    if (session.macros.length > MOST_MACROS) session.rows.push({ item: /** @type {Item} */ (session.macros.shift()), macros: [] });
    return session;
  }
  const isTheirs = item.kind === 'packet' && item.from === 'mta';
  // Macros belong to the command behind them; those that nothing follows stand for themselves.
  if (item.kind === 'close') for (const macro of session.macros) session.rows.push({ item: macro, macros: [] });
  session.rows.push({ item, macros: isTheirs ? session.macros : [] });
  if (isTheirs || item.kind === 'close') session.macros = [];
  return session;
}

/** What the server does not keep any more goes here as well. @param {number} id @param {number} [before] */
function drop(id, before) {
  const session = sessions.get(id);
  if (session === undefined) return;
  if (before === undefined) {
    sessions.delete(id);
    if (session.card !== undefined) session.card.remove();
    if (selected === session) select(undefined);
    return;
  }
  session.rows = session.rows.filter(({ item }) => item.at >= before);
  session.missing = before;
  if (selected === session) showLadder();
}

// ---- text and elements ------------------------------------------------------------------------------------------

/**
 * Text goes into text nodes, and nowhere else.
 * @param {string} name @param {string} [className] @param {string} [text] @returns {HTMLElement}
 */
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Text of anybody's: it is read in its own direction, whatever stands around it. @param {string} text @param {string} [className] */
const anybodys = (text, className) => element('bdi', className, text);

/** @param {number} number @param {string} what */
const count = (number, what) => number.toLocaleString('en') + ' ' + what + (number === 1 ? '' : 's');

/** @param {number} ms */
function duration(ms) {
  if (ms < 1) return ms.toFixed(2) + ' ms';
  if (ms < 100) return ms.toFixed(1) + ' ms';
  if (ms < 1000) return ms.toFixed(0) + ' ms';
  if (ms < 60000) return (ms / 1000).toFixed(ms < 10000 ? 2 : 1) + ' s';
  const minutes = Math.floor(ms / 60000);
  if (minutes < 60) return minutes + ' min ' + Math.floor((ms % 60000) / 1000) + ' s';
  return Math.floor(minutes / 60).toLocaleString('en') + ' h ' + (minutes % 60) + ' min';
}

/** With as many places as tell steps from each other. @param {number} ms */
function sinceStart(ms) {
  if (ms < 1000 || ms >= 3600000) return duration(ms);
  if (ms < 60000) return (ms / 1000).toFixed(3) + ' s';
  return Math.floor(ms / 60000) + ':' + ((ms % 60000) / 1000).toFixed(3).padStart(6, '0');
}

/** @param {number} number @param {number} places */
const padded = (number, places) => String(number).padStart(places, '0');

/** @param {number} time @param {boolean} [exact] */
function clock(time, exact) {
  const date = new Date(time);
  if (time === 0 || Number.isNaN(date.getTime())) return 'no time';
  const day = date.getFullYear() + '-' + padded(date.getMonth() + 1, 2) + '-' + padded(date.getDate(), 2);
  const hour = padded(date.getHours(), 2) + ':' + padded(date.getMinutes(), 2) + ':' + padded(date.getSeconds(), 2);
  return exact ? day + ' ' + hour + '.' + padded(date.getMilliseconds(), 3) : hour;
}
`;
