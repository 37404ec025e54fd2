/** How the page looks: in light and in dark, from 400 pixels on, on paper. */
export const STYLE = String.raw`
:root {
  color-scheme: light dark;
  --ground: #f4f5f7;
  --panel: #fff;
  --raised: #eceff3;
  --ink: #1b1f24;
  --soft: #57606a;
  --line: #d3d8de;
  --life: #9aa4b0;
  --mta: #0b57b0;
  --milter: #7b2fb5;
  --good: #14692d;
  --bad: #b3201b;
  --bad-ground: #fdeceb;
  --warn: #855300;
  --warn-ground: #fdf3dc;
  --choice: #dfeafb;
  --escape: #a1155a;
  --mono: ui-monospace, 'SF Mono', 'Cascadia Mono', 'DejaVu Sans Mono', Consolas, monospace;
  --before: 5.6rem;
  --after: 6.4rem;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #111417;
    --panel: #191d22;
    --raised: #242a31;
    --ink: #e7ebef;
    --soft: #a4aeb9;
    --line: #363d46;
    --life: #66717d;
    --mta: #86bbff;
    --milter: #d6a8ff;
    --good: #7fd697;
    --bad: #ff9b93;
    --bad-ground: #3a2020;
    --warn: #f0be68;
    --warn-ground: #372c17;
    --choice: #22344c;
    --escape: #ff9ccb;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html, body { height: 100%; margin: 0; }
body {
  display: flex;
  flex-direction: column;
  background: var(--ground);
  color: var(--ink);
  font: 0.9rem/1.4 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif;
}
h1, h2, p { margin: 0; }
h1 { font-size: 1.05rem; overflow-wrap: anywhere; }
bdi { overflow-wrap: anywhere; }
button, input, select { font: inherit; color: inherit; }
input[type='search'], select, button {
  background: var(--panel);
  border: 1px solid var(--life);
  border-radius: 0.3rem;
  padding: 0.2rem 0.5rem;
  min-height: 1.9rem;
}
button:disabled { opacity: 0.55; }
kbd {
  font: 0.8rem var(--mono);
  border: 1px solid var(--life);
  border-radius: 0.2rem;
  padding: 0 0.3rem;
  background: var(--raised);
}
:focus-visible { outline: 3px solid var(--mta); outline-offset: 1px; }
.soft { color: var(--soft); }
.unseen, .skip:not(:focus) {
  position: absolute;
  width: 1px;
  height: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}
.skip:focus { position: absolute; z-index: 9; background: var(--panel); color: var(--mta); padding: 0.5rem; }

/* The head */
header { padding: 0.6rem 0.9rem; background: var(--panel); border-bottom: 1px solid var(--line); }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 0.3rem 0.9rem; }
.title button { margin-left: auto; }
.follow, .check { display: inline-flex; align-items: center; gap: 0.35rem; }
.filter { display: flex; flex-wrap: wrap; align-items: end; gap: 0.4rem 0.8rem; margin-top: 0.4rem; }
.filter label:not(.check) { display: flex; flex-direction: column; font-size: 0.8rem; color: var(--soft); flex: 0 1 14rem; }
.filter label:not(.check) > * { color: var(--ink); font-size: 0.9rem; width: 100%; }
.filter .check { min-height: 1.9rem; }
#status { display: inline-flex; align-items: center; gap: 0.4rem; font-weight: 600; }
#status:empty { display: none; }
#status::before { content: ''; width: 0.65rem; height: 0.65rem; border-radius: 50%; background: currentColor; }
#status.on { color: var(--good); }
#status.off { color: var(--warn); }
#status.off::before { background: none; border: 2px solid currentColor; }

/* The sessions */
main { flex: 1; min-height: 0; display: grid; grid-template-columns: minmax(17rem, 23rem) minmax(0, 1fr); }
nav { display: flex; flex-direction: column; min-height: 0; border-right: 1px solid var(--line); background: var(--panel); }
#count { padding: 0.4rem 0.9rem; color: var(--soft); border-bottom: 1px solid var(--line); }
#sessions { list-style: none; margin: 0; padding: 0; overflow: auto; flex: 1; min-height: 0; }
.card {
  display: flex;
  flex-direction: column;
  gap: 0.15rem;
  padding: 0.5rem 0.9rem;
  border-bottom: 1px solid var(--line);
  border-left: 4px solid transparent;
  cursor: pointer;
  content-visibility: auto;
  contain-intrinsic-size: auto 6rem;
}
.card:hover { background: var(--raised); }
.card[aria-selected='true'] { background: var(--choice); border-left-color: var(--mta); }
.card:focus-visible { outline-offset: -3px; }
.head, .foot { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.1rem 0.6rem; min-width: 0; }
.time { font-weight: 600; font-variant-numeric: tabular-nums; }
.name { color: var(--soft); min-width: 0; max-width: 9rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.length { margin-left: auto; white-space: nowrap; }
.message { display: flex; flex-direction: column; min-width: 0; }
.message .head { flex-wrap: nowrap; white-space: nowrap; }
.queue-id { font-family: var(--mono); font-size: 0.85rem; font-weight: 600; }
.queue-id, .who { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; max-width: 100%; }
.who { font-size: 0.85rem; }
.foot { font-size: 0.8rem; }
.trouble { color: var(--bad); font-weight: 600; }
.warned { color: var(--warn); font-weight: 600; }
.badge, .chip, .tag, .live {
  display: inline-block;
  border: 1px solid currentColor;
  border-radius: 0.7rem;
  padding: 0 0.45rem;
  font-size: 0.75rem;
  line-height: 1.35;
  font-weight: 600;
  white-space: nowrap;
}
.badge.accept { color: var(--good); }
.badge.reject { color: var(--bad); }
.badge.tempfail, .badge.quarantine, .badge.discard { color: var(--warn); }
.badge.aborted, .badge.none { color: var(--soft); }
.live { color: var(--panel); background: var(--good); border-color: var(--good); }

/* The ladder */
#ladder { min-width: 0; min-height: 0; overflow: auto; outline-offset: -3px; }
#nothing { padding: 2rem; color: var(--soft); }
.ends {
  position: sticky;
  top: 0;
  z-index: 2;
  display: grid;
  grid-template-columns: calc(2 * var(--before)) minmax(0, 1fr) calc(2 * var(--after));
  align-items: center;
  padding: 0.4rem 0.6rem;
  background: var(--ground);
  border-bottom: 1px solid var(--line);
}
.ends h2 { font-size: 0.95rem; text-align: center; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.end-mta, .end-milter { font-weight: 700; white-space: nowrap; }
.end-mta, .end-milter { text-align: center; }
.end-mta { color: var(--mta); }
.end-milter { color: var(--milter); }
.missing { padding: 0.5rem; text-align: center; color: var(--warn); }
#rows { list-style: none; margin: 0; padding: 0 0.6rem 2rem; }
.rest { min-height: 1px; text-align: center; color: var(--soft); font-size: 0.85rem; }
.row { position: relative; }
.row::before, .row::after { content: ''; position: absolute; top: 0; bottom: 0; border-left: 2px solid var(--life); }
.row::before { left: var(--before); }
.row::after { right: var(--after); }
.step {
  display: grid;
  grid-template-columns: var(--before) minmax(0, 1fr) var(--after);
  width: 100%;
  padding: 0.3rem 0 0;
  border: 0;
  border-radius: 0.3rem;
  background: none;
  text-align: left;
  cursor: pointer;
}
.step:hover { background: var(--raised); }
.step:focus-visible { outline-offset: -2px; }
.when, .took { align-self: end; color: var(--soft); font-size: 0.8rem; font-variant-numeric: tabular-nums; white-space: nowrap; padding: 0 0.5rem; }
.when { text-align: right; }
.lane { display: block; min-width: 0; }
.label { display: flex; align-items: baseline; gap: 0 0.5rem; padding: 0 1rem; white-space: nowrap; }
.label b, .label .chip { flex: none; }
.label .text { min-width: 0; overflow: hidden; text-overflow: ellipsis; }
.label .text { color: var(--ink); font-family: var(--mono); font-size: 0.85rem; }
.row.milter .label { justify-content: flex-end; }
.row.milter .problem { text-align: right; }
.mta b, .mta .arrow { color: var(--mta); }
.milter b, .milter .arrow { color: var(--milter); }
.chip { color: var(--soft); }
.arrow { display: block; position: relative; height: 0.6rem; margin: 0 0.35rem; }
.arrow::before { content: ''; position: absolute; left: 0; right: 0; top: 0.25rem; border-top: 2px solid currentColor; }
.arrow::after { content: ''; position: absolute; top: calc(0.25rem - 4px); width: 9px; height: 10px; background: currentColor; }
.mta .arrow::after { right: -1px; clip-path: polygon(0 0, 100% 50%, 0 100%); }
.milter .arrow::after { left: -1px; clip-path: polygon(100% 0, 0 50%, 100% 100%); }
.problem { display: block; padding: 0.1rem 1rem; color: var(--bad); font-size: 0.85rem; }
.sign {
  display: inline-block;
  width: 1.1rem;
  border-radius: 50%;
  background: var(--bad);
  color: var(--panel);
  font-weight: 700;
  text-align: center;
  line-height: 1.1rem;
}
.row.bad .step { background: var(--bad-ground); }
.row.slow:not(.bad) .step { background: var(--warn-ground); }
.row.slow .took { color: var(--warn); font-weight: 600; }
.tag { color: var(--warn); }
.pause { position: relative; padding: 0.2rem 0; text-align: center; color: var(--soft); font-size: 0.8rem; font-style: italic; }
.note .step { padding: 0.35rem 0; }
.note .when { align-self: center; }
.note .label { position: relative; justify-content: center; text-align: center; white-space: normal; }
.note .text { font-family: inherit; color: var(--soft); }
.note.bad .text { color: var(--bad); font-weight: 600; }

/* A packet, unfolded */
.detail {
  position: relative;
  z-index: 1;
  margin: 0.1rem calc(var(--after) - 5.4rem) 0.6rem calc(var(--before) - 4.6rem);
  border: 1px solid var(--line);
  border-radius: 0.4rem;
  background: var(--panel);
}
.item { padding: 0.5rem 0.8rem; }
.item + .item { border-top: 1px solid var(--line); }
.facts { font-size: 0.8rem; color: var(--soft); margin-bottom: 0.3rem; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: minmax(14rem, 1fr) minmax(0, 35.5rem); gap: 0.3rem 1.5rem; align-items: start; }
.fields { display: grid; align-items: baseline; font-size: 0.85rem; grid-template-columns: minmax(4rem, max-content) minmax(0, 1fr); gap: 0.15rem 0.9rem; margin: 0; min-width: 0; max-height: 26rem; overflow: auto; }
.fields dt { color: var(--soft); max-width: 12rem; overflow-wrap: anywhere; }
.fields dd { margin: 0; font-family: var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0; }
.fields .whole { grid-column: 1 / -1; }
.fields .soft { font-family: inherit; }
.escape { color: var(--escape); white-space: nowrap; }
.cut { display: block; color: var(--warn); font-family: system-ui, sans-serif; }
.bytes { min-width: 0; }
.bytes pre { margin: 0; width: max-content; max-width: 100%; max-height: 26rem; overflow: auto; font: 0.78rem/1.45 var(--mono); background: var(--raised); padding: 0.4rem 0.6rem; border-radius: 0.3rem; }
.bytes p { font-size: 0.8rem; }

dialog {
  max-width: 36rem;
  border: 1px solid var(--life);
  border-radius: 0.6rem;
  background: var(--panel);
  color: var(--ink);
  padding: 1rem 1.4rem;
}
dialog::backdrop { background: rgb(0 0 0 / 0.45); }
dialog table { border-spacing: 0 0.3rem; margin: 0.5rem 0; }
dialog th { text-align: left; padding-right: 1rem; white-space: nowrap; font-weight: 400; vertical-align: top; }
dialog p { margin-bottom: 0.7rem; color: var(--soft); }

@media (prefers-reduced-motion: no-preference) {
  #status.on::before { animation: beat 2s ease-in-out infinite; }
  @keyframes beat { 50% { opacity: 0.35; } }
}
@media (max-width: 75rem) {
  .sides { grid-template-columns: minmax(0, 1fr); }
}
@media (max-width: 48rem) {
  :root { --before: 4.6rem; --after: 4.4rem; }
  main { grid-template-columns: minmax(0, 1fr); grid-template-rows: auto minmax(0, 1fr); }
  nav { border-right: 0; border-bottom: 1px solid var(--line); }
  #sessions { max-height: 26vh; }
  header { padding: 0.4rem 0.6rem; }
  .filter label:not(.check) { flex: 1 1 7rem; }
  #rows { padding: 0 0.2rem 2rem; }
  .ends { padding: 0.3rem 0.2rem; }
  .when, .took { padding: 0 0.3rem; font-size: 0.75rem; }
  .label { padding: 0 0.7rem; }
  .took .tag { display: block; width: max-content; }
  .detail { margin-left: 0.2rem; margin-right: 0.2rem; }
  .fields { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .fields dt { font-size: 0.8rem; margin-top: 0.2rem; max-width: none; }
}
@media (forced-colors: active) {
  .arrow::after { background: CanvasText; forced-color-adjust: none; }
  .card[aria-selected='true'] { outline: 2px solid Highlight; outline-offset: -2px; }
}
@media print {
  html, body, main { display: block; height: auto; }
  nav, .filter, .title button, .follow, .skip { display: none; }
  #ladder { overflow: visible; }
  .ends { position: static; }
  .row { break-inside: avoid; }
  .label { white-space: normal; flex-wrap: wrap; }
  .fields, .bytes pre { max-height: none; overflow: visible; }
}
`;
