/** The page's script, last part: the keyboard, and where the items come from. */
export const KEYS = String.raw`
// ---- the keyboard -----------------------------------------------------------------------------------------------

const help = byId('help');
byId('help-button').addEventListener('click', () => help.showModal());
byId('help-close').addEventListener('click', () => help.close());

/** @param {number} index @param {boolean} [isFar] */
function goToRow(index, isFar) {
  if (selected === undefined || selected.rows.length === 0) return;
  const there = Math.max(0, Math.min(index, selected.rows.length - 1));
  reach(there);
  const step = list_of_rows.querySelector('.step[data-index="' + there + '"]');
  for (const each of list_of_rows.querySelectorAll('.step[tabindex="0"]')) each.tabIndex = -1;
  step.tabIndex = 0;
  step.focus({ preventScroll: true });
  step.scrollIntoView({ block: isFar ? 'center' : 'nearest' });
}

function goToList() {
  if (selected !== undefined && selected.card !== undefined) selected.card.focus();
}

/** @param {number} by */
function nextSession(by) {
  const all = visibleSessions();
  const at = selected === undefined ? -1 : all.indexOf(selected);
  choose(all[Math.max(0, Math.min(at + by, all.length - 1))]);
}

/** @param {number} from @param {number} by */
function nextTrouble(from, by) {
  if (selected === undefined) return;
  for (let at = from + by; at >= 0 && at < selected.rows.length; at += by) {
    const row = selected.rows[at];
    if (row !== undefined && (isTrouble(row.item) || isSlow(row.item))) return goToRow(at, true);
  }
}

/** @param {KeyboardEvent} event @returns {boolean} */
function keyInList(event) {
  const all = visibleSessions();
  switch (event.key) {
    case 'ArrowDown':
      nextSession(1);
      return true;
    case 'ArrowUp':
      nextSession(-1);
      return true;
    case 'Home':
      choose(all[0]);
      return true;
    case 'End':
      choose(all.at(-1));
      return true;
    case 'Enter':
    case ' ':
    case 'ArrowRight':
      goToCurrent();
      return true;
    default:
      return false;
  }
}

function goToCurrent() {
  const current = list_of_rows.querySelector('.step[tabindex="0"]');
  goToRow(current === null ? 0 : Number(current.dataset.index));
}

/** @param {KeyboardEvent} event @param {HTMLElement} step @returns {boolean} */
function keyInLadder(event, step) {
  const line = /** @type {HTMLElement} */ (step.closest('.row'));
  const at = Number(step.dataset.index);
  const isOpen = line.classList.contains('unfolded');
  const isStep = event.target === step;
  if (event.key === 'Escape' || (event.key === 'ArrowLeft' && isStep)) {
    if (isOpen) step.click();
    if (isOpen) step.focus();
    else goToList();
    return true;
  }
  // Elsewhere in a row the arrows scroll.
  if (!isStep) return false;
  switch (event.key) {
    case 'ArrowDown':
      goToRow(at + 1);
      return true;
    case 'ArrowUp':
      goToRow(at - 1);
      return true;
    case 'PageDown':
      goToRow(at + 15);
      return true;
    case 'PageUp':
      goToRow(at - 15);
      return true;
    case 'Home':
      goToRow(0, true);
      return true;
    case 'End':
      goToRow(Infinity, true);
      return true;
    case 'ArrowRight':
      if (!isOpen) step.click();
      return true;
    default:
      return false;
  }
}

/** @param {KeyboardEvent} event @param {HTMLElement} target @returns {boolean} */
function keyInField(event, target) {
  if (event.key === 'Escape') {
    if (isFiltered()) clearFilter();
    else goToList();
    return true;
  }
  const isText = target instanceof HTMLInputElement && target.type === 'search';
  if (!isText || (event.key !== 'ArrowDown' && event.key !== 'Enter')) return false;
  goToList();
  return true;
}

/** @param {KeyboardEvent} event @param {number} at @returns {boolean} */
function keyAnywhere(event, at) {
  switch (event.key) {
    case '/':
      filter.queueId.focus();
      filter.queueId.select();
      return true;
    case '?':
      help.showModal();
      return true;
    case 'j':
    case 'k':
      nextSession(event.key === 'j' ? 1 : -1);
      return true;
    case 'n':
    case 'p':
      nextTrouble(at, event.key === 'n' ? 1 : -1);
      return true;
    default:
      return false;
  }
}

document.addEventListener('keydown', (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (help.open || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const isField = target.closest('input, select') !== null;
  const row = target.closest('.row');
  const step = /** @type {HTMLElement | null} */ (row === null ? null : row.querySelector('.step'));
  const isDone = isField
    ? keyInField(event, target)
    : (target.closest('#sessions') !== null && keyInList(event)) ||
      (step !== null && keyInLadder(event, step)) ||
      keyAnywhere(event, step === null ? -1 : Number(step.dataset.index));
  if (isDone) event.preventDefault();
});

// A row that was clicked is the one that Tab comes back to.
list_of_rows.addEventListener('focusin', (/** @type {FocusEvent} */ event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (!target.classList.contains('step')) return;
  for (const each of list_of_rows.querySelectorAll('.step[tabindex="0"]')) each.tabIndex = -1;
  target.tabIndex = 0;
});

// On paper there is no scrolling.
let onScreen = { first: 0, end: 0, top: 0 };
addEventListener('beforeprint', () => {
  onScreen = { first, end, top: pane.scrollTop };
  showRows(0, PRINTED);
});
addEventListener('afterprint', () => {
  showRows(onScreen.first, onScreen.end);
  pane.scrollTop = onScreen.top;
});

// ---- where the items come from ----------------------------------------------------------------------------------

const follow = byId('follow');
/** Sessions that the server does not keep any more. */
let dropped = 0;
let isDue = false;

/** A page that nobody sees is not painted: what came meanwhile is shown at once when somebody looks again. */
function paintSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(paint);
}

function paint() {
  isDue = false;
  let newest = /** @type {Session | undefined} */ (undefined);
  for (const session of changed) {
    const isNew = session.card === undefined;
    fillCard(session);
    if (isNew && session.card !== undefined && !session.card.hidden) newest = session;
  }
  const wasShown = selected !== undefined && changed.has(selected);
  changed.clear();
  sayCount();
  if (newest !== undefined && (selected === undefined || (config.live && follow.checked))) {
    select(config.live ? newest : visibleSessions()[0]);
  } else if (wasShown && selected !== undefined) {
    if (isAtEnd) {
      reach(selected.rows.length - 1);
      pane.scrollTop = pane.scrollHeight;
    }
    fill();
    sayRest();
    noteEnd();
  }
}

/** @param {string} text @param {string} state */
function say(text, state) {
  const status = byId('status');
  status.textContent = text;
  status.className = state;
}

/** @param {Item | Notice} what @param {EventSource} source */
function told(what, source) {
  switch (what.kind) {
    case 'hello':
      for (const id of [...sessions.keys()]) drop(id);
      changed.clear();
      dropped = 0;
      say('Live', 'on');
      break;
    case 'state':
      dropped = what.dropped;
      break;
    case 'drop':
      for (const session of changed) if (session.id === what.id) changed.delete(session);
      drop(what.id, what.before);
      break;
    case 'end':
      source.close();
      for (const session of sessions.values()) {
        session.live = false;
        changed.add(session);
      }
      say('Ended: nothing more will come', 'off');
      break;
    default:
      changed.add(take(what));
  }
  paintSoon();
}

byId('filter-clear').disabled = true;
if (config.live) {
  byId('follow-label').hidden = false;
  follow.addEventListener('change', () => {
    if (follow.checked) select(visibleSessions()[0]);
  });
  const source = new EventSource('events');
  source.addEventListener('message', (event) => told(JSON.parse(event.data), source));
  source.addEventListener('error', () => say('The server is gone; trying again', 'off'));
} else {
  for (const block of document.querySelectorAll('script.items')) {
    for (const item of JSON.parse(block.textContent || '[]')) changed.add(take(item));
    block.remove();
  }
  paint();
}
`;
