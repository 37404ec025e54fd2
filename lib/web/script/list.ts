/** The page's script, second part: the list of sessions, and its filter. */
export const LIST = String.raw`
// ---- the list ---------------------------------------------------------------------------------------------------

const list = byId('sessions');
const filter = {
  queueId: byId('filter-queue-id'),
  sender: byId('filter-sender'),
  verdict: byId('filter-verdict'),
  problem: byId('filter-problem'),
};
/** Most messages of a session that its card shows. */
const MOST_MESSAGES = 6;
/** Most sessions of a file in the list: the filter finds the others. A server keeps no more than it has been told to. */
const MOST_CARDS = 1000;

/** Sessions whose cards are to be made anew. @type {Set<Session>} */
const changed = new Set();

function isFiltered() {
  return filter.queueId.value.trim() !== '' || filter.sender.value.trim() !== '' || filter.verdict.value !== '' || filter.problem.checked;
}

/** @param {Message} message */
function isWanted(message) {
  const id = filter.queueId.value.trim().toLowerCase();
  const sender = filter.sender.value.trim().toLowerCase();
  const verdict = filter.verdict.value;
  if (id !== '' && !message.queueId.toLowerCase().includes(id)) return false;
  if (sender !== '' && !message.sender.toLowerCase().includes(sender)) return false;
  return verdict === '' || (verdict === 'none' ? message.n > 0 && message.verdict === '' : message.verdict === verdict);
}

/** A session is shown where one of its messages is wanted. @param {Session} session */
function matches(session) {
  if (filter.problem.checked && session.problems === 0) return false;
  const wantsMessage = filter.queueId.value.trim() !== '' || filter.sender.value.trim() !== '' || filter.verdict.value !== '';
  return !wantsMessage || [...session.messages.values()].some(isWanted);
}

/** @param {string} verdict */
const badge = (verdict) => element('span', 'badge ' + (verdict || 'none'), verdict || 'none yet');

/** @param {Message} message */
function messageLine(message) {
  const line = element('span', 'message');
  const head = element('span', 'head');
  head.append(
    message.n === 0 ? element('span', 'soft', 'the session') : anybodys(message.queueId || 'no queue id', message.queueId ? 'queue-id' : 'soft'),
    badge(message.verdict),
  );
  if (message.edits > 0) head.append(element('span', 'soft', count(message.edits, 'edit')));
  line.append(head);
  if (message.n === 0) return line;
  const who = element('span', 'who');
  who.append(anybodys(message.sender || 'no sender seen'), ' → ');
  who.append(message.recipients === 0 ? 'nobody' : anybodys(message.to[0] || ''));
  const more = message.recipients - 1;
  if (more > 0) who.append(' and ' + more.toLocaleString('en') + ' more');
  if (message.refused > 0) who.append(element('span', 'trouble', ' (' + message.refused.toLocaleString('en') + ' refused)'));
  who.title = message.to.join('\n') + (message.recipients > message.to.length ? '\n…' : '');
  line.append(who);
  return line;
}

/** @param {Session} session @returns {HTMLElement} */
function makeCard(session) {
  const made = element('li', 'card');
  made.setAttribute('role', 'option');
  made.id = 'session-' + session.id;
  made.tabIndex = session === selected ? 0 : -1;
  if (session === selected) made.setAttribute('aria-selected', 'true');
  made.addEventListener('click', () => choose(session));
  // Those that go are the newest first; those in a file are in order.
  if (config.live) list.prepend(made);
  else list.append(made);
  return made;
}

/** @param {Session} session */
function fillCard(session) {
  const isHidden = !matches(session);
  if (session.card === undefined && !config.live && (isHidden || list.childElementCount >= MOST_CARDS)) return;
  const card = (session.card = session.card || makeCard(session));
  const head = element('span', 'head');
  const time = element('time', 'time', clock(session.start));
  time.title = clock(session.start, true);
  head.append(time, anybodys(session.name === '' ? 'the capture' : '#' + session.name, 'name'));
  if (session.live) head.append(element('span', 'live', 'live'));
  if (session.start !== 0) head.append(element('span', 'soft length', duration(session.end - session.start)));
  const all = [...session.messages.values()].filter((message) => message.n > 0 || message.verdict !== '');
  const wanted = isFiltered() ? all.filter(isWanted) : all;
  const lines = wanted.slice(0, MOST_MESSAGES).map(messageLine);
  if (wanted.length > lines.length) lines.push(element('span', 'soft', 'and ' + count(wanted.length - lines.length, 'more message')));
  if (all.length === 0) lines.push(element('span', 'soft', 'no message'));
  const foot = element('span', 'foot');
  foot.append(element('span', 'soft', count(session.packets, 'packet')));
  if (session.problems > 0) foot.append(element('span', 'trouble', count(session.problems, 'problem')));
  if (session.slow > 0) foot.append(element('span', 'warned', session.slow.toLocaleString('en') + ' slow'));
  card.replaceChildren(head, ...lines, foot);
  card.hidden = isHidden;
  card.classList.toggle('bad', session.problems > 0);
}

/** @returns {Session[]} in the order of the list */
function visibleSessions() {
  const all = [...sessions.values()].filter((session) => session.card !== undefined && !session.card.hidden);
  return config.live ? all.toReversed() : all;
}

function sayCount() {
  const listed = visibleSessions().length;
  const shown = isFiltered() ? [...sessions.values()].filter(matches).length : sessions.size;
  const text = shown === sessions.size ? count(shown, 'session') : shown.toLocaleString('en') + ' of ' + count(sessions.size, 'session');
  const says = byId('count');
  const whole = text + (listed < shown ? '; ' + listed.toLocaleString('en') + ' of them in the list' : '') + (dropped > 0 ? '; ' + count(dropped, 'older one') + ' not kept any more' : '');
  if (says.textContent !== whole) says.textContent = whole;
}

function applyFilter() {
  if (!config.live) {
    list.replaceChildren();
    for (const session of sessions.values()) session.card = undefined;
  }
  for (const session of sessions.values()) fillCard(session);
  sayCount();
  byId('filter-clear').disabled = !isFiltered();
  if (selected !== undefined && selected.card !== undefined && !selected.card.hidden) return;
  select(visibleSessions()[0]);
}

/** @param {Session | undefined} session */
function select(session) {
  for (const each of [selected, session]) {
    if (each === undefined || each.card === undefined) continue;
    each.card.setAttribute('aria-selected', String(each === session));
    each.card.tabIndex = each === session ? 0 : -1;
  }
  selected = session;
  showLadder();
}

/** Somebody chose a session: the newest is not followed any more. @param {Session | undefined} session */
function choose(session) {
  if (session === undefined || session.card === undefined) return;
  follow.checked = false;
  if (session !== selected) select(session);
  session.card.focus();
  session.card.scrollIntoView({ block: 'nearest' });
}

for (const input of [filter.queueId, filter.sender]) input.addEventListener('input', applyFilter);
for (const input of [filter.verdict, filter.problem]) input.addEventListener('change', applyFilter);
function clearFilter() {
  filter.queueId.value = filter.sender.value = filter.verdict.value = '';
  filter.problem.checked = false;
  applyFilter();
}
byId('filter-clear').addEventListener('click', () => {
  clearFilter();
  filter.queueId.focus();
});
`;
