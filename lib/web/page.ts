/**
 * The page: one file with its own style and script, which may fetch nothing and run nothing else. What is shown comes as
 * JSON, in elements that nobody runs or from the server, and is only ever put into text nodes.
 */
import { createHash } from 'node:crypto';
import { optionError } from '../option-rules.js';
import { VERDICTS } from './messages.js';
import { KEYS } from './script/keys.js';
import { LADDER } from './script/ladder.js';
import { LIST } from './script/list.js';
import { STORE } from './script/store.js';
import { STYLE } from './style.js';
import { visible } from './visible.js';

export interface PageOptions {
  /** What it is about: the name of a file, or an address. */
  readonly title?: string | undefined;
  /** An answer that took as long is marked as slow, in ms. Default 1,000. */
  readonly slow?: number | undefined;
}

/** The script, which the browser runs in one piece. */
export const SCRIPT = ["'use strict';\n(() => {\n", STORE, LIST, LADDER, KEYS, '})();\n'].join('');

const ICON =
  'data:image/svg+xml,' +
  encodeURIComponent(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b57b0"/><path d="M4 2v12M12 2v12M4 6h7M12 10H5" stroke="#fff" stroke-width="1.6"/></svg>',
  );

/** What the page is told of itself. */
export interface PageConfig {
  readonly live: boolean;
  readonly slow: number;
}

/**
 * The content security policy.
 * @param live it hears from its server
 * @param framed whether other pages may show it; a policy inside of a page cannot say no
 */
export function contentPolicy({ live, framed }: { live: boolean; framed: boolean }): string {
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  return [
    "default-src 'none'",
    `script-src ${hash(SCRIPT)}`,
    `style-src ${hash(STYLE)}`,
    'img-src data:',
    ...(live ? ["connect-src 'self'"] : []),
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
    ...(framed ? [] : ["frame-ancestors 'none'"]),
  ].join('; ');
}

/** A value as JSON that may stand in an element of HTML, and in JavaScript. */
export function json(value: unknown): string {
  return JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** The page of a server. */
export function page(options: PageOptions): string {
  return pageStart({ ...options, live: true }) + pageEnd();
}

/** All of the page before the items. @throws MilterError ERR_MILTER_OPTION */
export function pageStart({ title = '', slow = 1000, live }: PageOptions & { readonly live: boolean }): string {
  if (!Number.isFinite(slow) || slow <= 0) {
    throw optionError('slow', 'must be a positive number', slow);
  }
  const config: PageConfig = { live, slow };
  const shown = text(title);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${contentPolicy({ live, framed: true })}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>${shown === '' ? '' : `${shown} - `}milter-stream</title>
<link rel="icon" href="${ICON}">
<style>${STYLE}</style>
</head>
<body>
<a class="skip" href="#ladder">Go to the ladder</a>
<header>
<div class="title">
<h1>${shown === '' ? 'milter-stream' : `<bdi>${shown}</bdi>`}</h1>
<p id="status" role="status"></p>
<label class="follow" id="follow-label" hidden><input type="checkbox" id="follow" checked> Follow the newest</label>
<button type="button" id="help-button" aria-haspopup="dialog"><kbd>?</kbd> Keys</button>
</div>
<div class="filter" role="search" aria-label="Filter the sessions">
<label>Queue id <input id="filter-queue-id" type="search" autocomplete="off" spellcheck="false" aria-keyshortcuts="/"></label>
<label>Sender <input id="filter-sender" type="search" autocomplete="off" spellcheck="false"></label>
<label>Verdict <select id="filter-verdict"><option value="">any</option>${VERDICTS.map((verdict) => `<option>${verdict}</option>`).join('')}<option value="none">none yet</option></select></label>
<label class="check"><input id="filter-problem" type="checkbox"> With problems</label>
<button type="button" id="filter-clear">Clear</button>
</div>
</header>
<main>
<nav aria-label="Sessions">
<p id="count" role="status"></p>
<ul id="sessions" role="listbox" aria-label="Sessions"></ul>
</nav>
<section id="ladder" tabindex="-1" aria-label="Ladder">
<p id="nothing">${live ? 'Nobody has said anything yet.' : 'There is nothing in this capture.'}</p>
<div id="shown" hidden>
<div class="ends"><span class="end-mta">Mail server</span><h2 id="about"></h2><span class="end-milter">Milter</span></div>
<p id="missing" class="missing" hidden></p>
<p id="earlier" class="rest"></p>
<ol id="rows" aria-label="Packets"></ol>
<p id="more" class="rest"></p>
</div>
</section>
</main>
<dialog id="help" aria-labelledby="help-title">
<h2 id="help-title">Keys</h2>
<table>
${KEY_HELP.map(([keys, what]) => `<tr><th scope="row">${keys.map((key) => `<kbd>${key}</kbd>`).join(' ')}</th><td>${what}</td></tr>`).join('\n')}
</table>
<p>What is no visible character is written out: <code>\\r</code> <code>\\n</code> <code>\\x00</code> <code>\\u{202e}</code>, and the backslash as <code>\\\\</code>. <code>\\x80</code> to <code>\\xff</code> are bytes that are no UTF-8.</p>
<p>Times are of this browser's time zone.</p>
<button type="button" id="help-close">Close</button>
</dialog>
<noscript><p>This page needs JavaScript: its own, it fetches none.</p></noscript>
<script type="application/json" id="config">${json(config)}</script>
`;
}

const KEY_HELP: ReadonlyArray<readonly [readonly string[], string]> = [
  [['/'], 'Filter by queue id'],
  [['j', 'k'], 'Next session, the one before'],
  [['↑', '↓', 'Home', 'End'], 'Move in the list of sessions, or of packets'],
  [['Enter'], 'From a session to its packets; unfold a packet, fold it'],
  [['→', '←'], 'Unfold, fold; from a folded packet back to the sessions'],
  [['n', 'p'], 'Next problem or slow answer, the one before'],
  [['Esc'], 'Fold, then back; in the filter: clear it, then back'],
  [['?'], 'This help'],
];

/** All of the page behind the items. */
export function pageEnd(): string {
  return `<script>${SCRIPT}</script>\n</body>\n</html>\n`;
}

/** Text of anybody's for HTML. */
function text(value: string): string {
  return visible(value).replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
