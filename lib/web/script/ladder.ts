/** The page's script, third part: the ladder, whose rows are made when they come into sight, and unfolded when asked. */
export const LADDER = String.raw`
// ---- the ladder -------------------------------------------------------------------------------------------------

const pane = byId('ladder');
const list_of_rows = byId('rows');
const earlier = byId('earlier');
const more = byId('more');
/** Rows that are made at once, and most that are there: those far away are made when somebody goes there. */
const STEP = 200;
const MOST = 1000;
/** Most rows on paper. */
const PRINTED = 5000;
/** The rows that are there: from the first up to, and without, the end. */
let first = 0;
let end = 0;
/** The last row of all was there when rows were made last. */
let isWhole = true;
/** The end is in sight, and stays there when more comes. */
let isAtEnd = true;
/** The rows that are unfolded: 'session:place'. @type {Set<string>} */
const unfolded = new Set();

/** @param {Row} row */
const keyOf = ({ item }) => item.id + ':' + item.at;

/** All of the ladder, anew. */
function showLadder() {
  byId('shown').hidden = selected === undefined;
  const nothing = byId('nothing');
  nothing.hidden = selected !== undefined;
  if (selected === undefined && sessions.size > 0) nothing.textContent = 'No session is like that.';
  showRows(0, STEP);
  pane.scrollTop = 0;
  noteEnd();
}

function noteEnd() {
  isAtEnd = isWhole && pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
}

/** These rows and no others. @param {number} from @param {number} to */
function showRows(from, to) {
  first = end = Math.max(0, from);
  list_of_rows.replaceChildren();
  addRows(to);
}

/** The rows behind those that are there. @param {number} to */
function addRows(to) {
  if (selected === undefined) return;
  const fragment = document.createDocumentFragment();
  for (const last = Math.min(selected.rows.length, to); end < last; end++) fragment.append(rowElement(selected, end));
  list_of_rows.append(fragment);
  sayRest();
}

/** More rows below; as many go above, out of sight. */
function growDown() {
  addRows(end + STEP);
  const surplus = end - first - MOST;
  if (surplus <= 0) return;
  first += surplus;
  inPlace(list_of_rows.lastElementChild, () => {
    for (let i = 0; i < surplus; i++) list_of_rows.firstElementChild.remove();
  });
  sayRest();
}

/** More rows above; as many go below. */
function growUp() {
  if (selected === undefined) return;
  const session = selected;
  const fragment = document.createDocumentFragment();
  const above = Math.min(first, STEP);
  for (let index = first - above; index < first; index++) fragment.append(rowElement(session, index));
  inPlace(list_of_rows.firstElementChild, () => list_of_rows.prepend(fragment));
  first -= above;
  for (; end - first > MOST; end--) list_of_rows.lastElementChild.remove();
  sayRest();
}

/** Changes rows, and leaves those in sight where they are. @param {Element} row that stays @param {() => void} change */
function inPlace(row, change) {
  const before = row.getBoundingClientRect().top;
  change();
  pane.scrollTop += row.getBoundingClientRect().top - before;
}

/** What there is besides the rows. */
function sayRest() {
  if (selected === undefined) return;
  const { name, rows, missing } = selected;
  const say = (/** @type {string} */ id, /** @type {string} */ text) => {
    const element = byId(id);
    if (element.textContent !== text) element.textContent = text;
  };
  say('about', name === '' ? 'The capture' : 'Session ' + name);
  byId('missing').hidden = missing === 0;
  say('missing', entries(missing, ' earlier') + ' of this session not kept any more');
  say('earlier', first === 0 ? '' : '… ' + entries(first) + ' above');
  say('more', end === rows.length ? '' : '… ' + entries(rows.length - end) + ' below');
  isWhole = end === rows.length;
  if (list_of_rows.querySelector('.step[tabindex="0"]') !== null) return;
  const step = list_of_rows.querySelector('.step');
  if (step !== null) step.tabIndex = 0;
}

/** @param {number} number @param {string} [which] */
const entries = (number, which) => number.toLocaleString('en') + (which || '') + (number === 1 ? ' entry' : ' entries');

/** Makes the rows around a place, where it is not among those that are there. @param {number} index */
function reach(index) {
  if (index < 0 || (index >= first && index < end)) return;
  if (index >= end && index < end + STEP) growDown();
  else if (index < first && index >= first - STEP) growUp();
  else showRows(index - STEP / 2, index + STEP / 2);
}

/** @param {Element} element */
function isNear(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > -800 && top < innerHeight + 800;
}

/** Makes rows for as long as their place is in sight, a step for each frame. */
function fill() {
  if (selected === undefined) return;
  if (end < selected.rows.length && isNear(more)) growDown();
  else if (first > 0 && isNear(earlier)) growUp();
  else return;
  requestAnimationFrame(fill);
}

pane.addEventListener('scroll', () => {
  noteEnd();
  fill();
});
// Folding and the size of the window change what is in sight as well.
const watcher = new IntersectionObserver(fill, { rootMargin: '800px' });
watcher.observe(earlier);
watcher.observe(more);

/** @param {Session} session @param {number} index */
function rowElement(session, index) {
  const row = /** @type {Row} */ (session.rows[index]);
  const { item, macros } = row;
  const before = session.rows[index - 1];
  const isPacket = item.kind === 'packet';
  const side = isPacket ? item.from || '' : 'note note-' + item.kind;
  const line = element('li', 'row ' + side + (isTrouble(item) ? ' bad' : '') + (isSlow(item) ? ' slow' : ''));
  // Not all of them are there.
  line.setAttribute('aria-posinset', String(index + 1));
  line.setAttribute('aria-setsize', String(config.live ? -1 : session.rows.length));
  const passed = before === undefined ? 0 : ((macros[0] || item).time - before.item.time);
  if (passed >= config.slow && item.answers === undefined) line.append(element('p', 'pause', duration(passed) + ' pass'));
  const step = element('button', 'step');
  /** @type {any} */ (step).type = 'button';
  step.tabIndex = -1;
  step.dataset.index = String(index);
  step.setAttribute('aria-expanded', 'false');
  const when = element('span', 'when', item.time === 0 ? '' : '+' + sinceStart(Math.max(0, item.time - session.start)));
  when.title = clock(item.time, true);
  const lane = element('span', 'lane');
  const label = element('span', 'label');
  if (isPacket) {
    label.append(element('span', 'unseen', item.from === 'mta' ? 'Mail server: ' : 'Milter: '));
    label.append(element('b', '', item.name));
  }
  if (item.text !== '') label.append(anybodys(item.text, 'text'));
  if (macros.length > 0) label.append(element('span', 'chip', count(macros.reduce((sum, each) => sum + (each.fields || []).length + (each.moreFields || 0), 0), 'macro')));
  lane.append(label);
  if (isPacket) lane.append(element('span', 'arrow'));
  if (item.problem !== undefined) {
    const trouble = element('span', 'problem');
    trouble.append(element('span', 'sign', '!'), ' ', anybodys(item.problem));
    lane.append(trouble);
  }
  const took = element('span', 'took');
  if (item.answers !== undefined) {
    took.append(element('span', 'unseen', 'answered in '), duration(item.answers.ms));
    took.title = 'The answer to packet ' + item.answers.number;
    if (isSlow(item)) took.append(' ', element('span', 'tag', 'slow'));
  }
  step.append(when, lane, took);
  line.append(step);
  step.addEventListener('click', () => fold(line, row, !line.classList.contains('unfolded')));
  if (unfolded.has(keyOf(row))) fold(line, row, true);
  return line;
}

/** @param {Element} line @param {Row} row @param {boolean} open */
function fold(line, row, open) {
  const step = /** @type {HTMLElement} */ (line.querySelector('.step'));
  if (line.classList.toggle('unfolded', open)) unfolded.add(keyOf(row));
  else unfolded.delete(keyOf(row));
  step.setAttribute('aria-expanded', String(open));
  const detail = line.querySelector('.detail');
  if (!open && detail !== null) detail.remove();
  if (!open || detail !== null) return;
  const made = element('div', 'detail');
  made.append(...[...row.macros, row.item].map(itemDetail));
  line.append(made);
}

/** A packet with its fields and its bytes, side by side. @param {Item} item */
function itemDetail(item) {
  const section = element('section', 'item');
  const facts = [item.kind === 'packet' ? item.name + (item.name === 'macro' ? ' ' + item.text.split(': ')[0] : '') + ', code ' + item.code : item.kind, clock(item.time, true)];
  if (item.number !== undefined) facts.splice(1, 0, 'packet ' + item.number.toLocaleString('en'));
  if (item.offset !== undefined) facts.push('byte ' + item.offset.toLocaleString('en') + ' of what this side said');
  if (item.answers !== undefined) facts.push('answers packet ' + item.answers.number.toLocaleString('en') + ' in ' + duration(item.answers.ms));
  section.append(element('p', 'facts', facts.join(' · ')));
  const sides = element('div', 'sides');
  const fields = element('dl', 'fields');
  for (const [name, value, cut] of item.fields || []) {
    const term = element('dt');
    fillText(term, name);
    const shown = element('dd');
    if (value === '') shown.append(element('span', 'soft', 'empty'));
    else fillText(shown, value);
    if (cut !== undefined) shown.append(element('span', 'cut', '… ' + cut + ' not shown'));
    fields.append(term, shown);
  }
  if (item.moreFields !== undefined) fields.append(element('dd', 'whole cut', '… ' + count(item.moreFields, 'more field') + ' not shown'));
  if (item.kind !== 'packet') fillText(fields.appendChild(element('dd', 'whole')), item.text);
  else if (fields.childElementCount === 0) fields.append(element('dd', 'whole soft', 'no fields'));
  sides.append(fields);
  if (item.bytes !== undefined) sides.append(bytesOf(item));
  section.append(sides);
  return section;
}

const ESCAPE = /\\(?:[\\rnt]|x[0-9a-f]{2}|u\{[0-9a-f]+\})/g;

/** Text with its escapes set apart; a line ends behind what stands for its end. @param {Element} into @param {string} text */
function fillText(into, text) {
  const whole = element('bdi');
  let at = 0;
  for (const found of text.matchAll(ESCAPE)) {
    if (found.index > at) whole.append(text.slice(at, found.index));
    whole.append(element('span', 'escape', found[0]));
    at = found.index + found[0].length;
    if (found[0] === '\\n') whole.append('\n');
  }
  if (at < text.length) whole.append(text.slice(at));
  into.append(whole);
}

/** @param {Item} item */
function bytesOf(item) {
  const bytes = Uint8Array.from(atob(item.bytes || ''), (character) => character.charCodeAt(0));
  const width = matchMedia('(max-width: 48rem)').matches ? 8 : 16;
  const lines = [];
  for (let at = 0; at < bytes.length; at += width) {
    const part = [...bytes.subarray(at, at + width)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, '0'));
    const seen = part.map((byte) => (byte > 0x1f && byte < 0x7f ? String.fromCharCode(byte) : '·'));
    const halves = [hex.slice(0, 8).join(' '), hex.slice(8).join(' ')].join(width === 16 ? '  ' : '');
    lines.push(at.toString(16).padStart(4, '0') + '  ' + (bytes.length > width ? halves.padEnd(width === 16 ? 48 : 23) : halves.trimEnd()) + '  ' + seen.join(''));
  }
  const figure = element('div', 'bytes');
  const dump = element('pre', '', lines.join('\n'));
  dump.tabIndex = 0;
  dump.setAttribute('role', 'group');
  dump.setAttribute('aria-label', 'Bytes');
  const size = item.size || 0;
  figure.append(dump);
  const says = bytes.length < size ? 'the first ' + bytes.length.toLocaleString('en') + ' of ' + count(size, 'byte') : count(size, 'byte');
  figure.append(element('p', 'soft', says));
  return figure;
}
`;
