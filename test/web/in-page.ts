/** What runs in the page, asked by a test: JavaScript as text, as the types of browsers are not those of this project. */

/** All rows, unfolded. */
export const UNFOLD = 'for (const step of document.querySelectorAll(".step[aria-expanded=false]")) step.click();';

/** Elements that text cannot be, and whether the page is wider than its window. */
export const STRANGE = String.raw`(() => {
  const own = new Set('UL LI SPAN TIME BDI DIV P OL BUTTON B SECTION DL DT DD PRE H2 NAV'.split(' '));
  const strange = [...document.querySelectorAll('main *')].filter(({ tagName }) => !own.has(tagName));
  const wide = document.documentElement.scrollWidth > innerWidth ? ['wider than the window'] : [];
  return [...strange.map(({ tagName }) => tagName), ...wide];
})()`;

/** Tries what a page must not do that holds what others have said: each ends with the name of an error. */
export const HARM = String.raw`(async () => {
  const failed = (error) => error.name;
  const attempt = async (act) => act();
  return [
    await attempt(() => fetch('http://127.0.0.1:9/')).then(() => 'fetched', failed),
    await attempt(() => (document.body.innerHTML = '<p>')).catch(failed),
    await attempt(() => document.write('<p>')).catch(failed),
    await attempt(() => setTimeout('1', 0)).catch(failed),
  ];
})()`;

export const WIDTH = 'document.documentElement.scrollWidth';

/** What has the focus, as text on one line. */
export const FOCUSED = String.raw`document.activeElement.innerText.replace(/\s+/g, ' ')`;

/** Each text whose colour is too near to what is behind it (WCAG 2, 1.4.3). */
export const POOR_CONTRAST = String.raw`(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const behind = (element) => {
    for (let each = element; each !== null; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3) return colour;
    }
    throw new Error('nothing behind it');
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  let seen = 0;
  while (walker.nextNode()) {
    const { parentElement: element, textContent } = walker.currentNode;
    if (!textContent.trim() || !element.checkVisibility() || element.closest('script, button:disabled')) continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen++;
    if (contrast < 4.5) poor.push(contrast.toFixed(2) + ' ' + element.tagName + '.' + element.className + ': ' + textContent.slice(0, 30));
  }
  return seen < 200 ? ['only ' + seen + ' texts'] : [...new Set(poor)];
})()`;

/** The row at the top of the window, and where it is. */
export const AT_TOP = `(() => {
  const { left, top } = document.querySelector('#rows').getBoundingClientRect();
  const edge = document.querySelector('.ends').getBoundingClientRect().bottom;
  const row = document.elementFromPoint(left + 60, Math.max(edge, top) + 20).closest('.row');
  return [row.querySelector('.step').dataset.index, Math.round(row.getBoundingClientRect().top)];
})()`;
/** Resolves when what was asked for is to be seen. */
export const FRAMES = 'new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))';
