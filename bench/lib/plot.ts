/**
 * Bar charts as SVG files that need nothing else: no script, no font, no style sheet. Light or dark as the reader has it.
 *
 * Each panel has a scale of its own that begins at 0: bars are to be compared inside a panel, and the values stand beside.
 * A limit that is far beyond everything else is cut, and looks it.
 */

/** Whose bar it is: the library's, the limit's, that of another program. */
export type Kind = 'own' | 'limit' | 'peer';

export interface Bar {
  readonly label: string;
  readonly value: number;
  /** The value as it is written. */
  readonly text: string;
  readonly kind: Kind;
}

export interface Panel {
  readonly label: string;
  readonly bars: readonly Bar[];
}

export interface Chart {
  readonly title: string;
  /** What the numbers are, and which way is better. */
  readonly units: string;
  readonly panels: readonly Panel[];
  /** Small lines at the end. */
  readonly notes: readonly string[];
}

const WIDTH = 760;
const MARGIN = 16;
const BAR = 15;
const STEP = 21;
const GAP = 8;
/** Widths of a character at the sizes below, on the safe side: the reader's font is not known. */
const LABEL_CHAR = 7.2;
const NOTE_CHAR = 6;

const STYLE = `
    text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
    .page { fill: #ffffff }
    .title { font-size: 16px; font-weight: 600 }
    .panel { font-size: 12px; font-weight: 600 }
    .label, .value, .units { font-size: 12px }
    .units, .note { fill: #59636e }
    .note { font-size: 10px }
    .own { fill: #0969da }
    .limit { fill: #8c959f }
    .peer { fill: #bc4c00 }
    .cut { stroke: #ffffff; stroke-width: 4 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .page { fill: #0d1117 }
      .units, .note { fill: #9198a1 }
      .own { fill: #4493f8 }
      .limit { fill: #7d8590 }
      .peer { fill: #f0883e }
      .cut { stroke: #0d1117 }
    }
  `;

/** Text as it may stand in an SVG, also inside quotes. What XML cannot have at all becomes a question mark. */
export function escapeText(text: string): string {
  return text
    .toWellFormed()
    .replaceAll(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, '?')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&apos;');
}

/** A note in lines that fit. */
export function wrap(text: string, most: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > most) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

/** What the longest bar stands for: a limit far beyond all others would make them invisible, so it is cut. */
export function scale(bars: readonly Bar[]): number {
  const most = Math.max(...bars.map((bar) => bar.value));
  const others = Math.max(0, ...bars.filter(({ kind }) => kind !== 'limit').map((bar) => bar.value));
  return (others > 0 ? Math.min(most, 2 * others) : most) || 1;
}

const round = (number: number): number => Math.round(number * 10) / 10;
const inner = WIDTH - 2 * MARGIN;

export function drawChart({ title, units, panels, notes }: Chart): string {
  const bars = panels.flatMap((panel) => panel.bars);
  const widest = (pick: (bar: Bar) => string): number =>
    Math.max(0, ...bars.map((bar) => pick(bar).length * LABEL_CHAR));
  const left = MARGIN + widest((bar) => bar.label) + GAP;
  const room = WIDTH - MARGIN - left - GAP - widest((bar) => bar.text);
  const parts: string[] = [];
  let y = MARGIN;

  const write = (name: string, x: number, text: string, size: number, anchor = 'start'): void => {
    parts.push(
      `<text class="${name}" x="${round(x)}" y="${round(y + size)}" text-anchor="${anchor}">${escapeText(text)}</text>`,
    );
  };

  write('title', MARGIN, title, 16);
  y += 24;
  for (const line of wrap(units, inner / LABEL_CHAR)) {
    write('units', MARGIN, line, 12);
    y += 17;
  }
  y += 9;
  for (const panel of panels) {
    write('panel', MARGIN, panel.label, 12);
    y += 20;
    const most = scale(panel.bars);
    for (const { label, value, text, kind } of panel.bars) {
      const length = Math.min(room, Math.max(1, (value / most) * room));
      write('label', left - GAP, label, 12, 'end');
      parts.push(`<rect class="${kind}" x="${round(left)}" y="${y}" width="${round(length)}" height="${BAR}" rx="2"/>`);
      if (value > most)
        parts.push(`<path class="cut" d="M${round(left + length - 24)} ${y + BAR + 2}l6 -${BAR + 4}"/>`);
      write('value', left + length + GAP, text, 12);
      y += STEP;
    }
    y += 10;
  }
  for (const note of notes.flatMap((note) => wrap(note, inner / NOTE_CHAR))) {
    write('note', MARGIN, note, 10);
    y += 14;
  }
  y += MARGIN - 4;

  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}" role="img">`,
    `<title>${escapeText(title)}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="page" width="${WIDTH}" height="${y}"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}
