// More than a page can hold, in a real browser: it stays quick, and what is not there comes when somebody goes there.
import t from 'tap';
import type { Page } from 'playwright-core';
import type { CaptureEvent } from '../../lib/capture/index.js';
import { createLadder } from '../../lib/web/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { needs } from '../helpers/real.js';
import { AT_TOP, FOCUSED, FRAMES, UNFOLD } from './in-page.js';
import { open, reportFile, startBrowser } from './browser.js';
import { c, macros, opening, scene, type Line } from './scenes.js';

/** The elements of the page. */
const ELEMENTS = 'document.querySelectorAll("*").length';
/** The names of the rows that are there, first and last. */
const ENDS = `(() => {
  const steps = [...document.querySelectorAll('.step')];
  return [steps.length, steps[0].dataset.index, steps.at(-1).dataset.index];
})()`;
const keys = async (page: Page, ...names: string[]): Promise<void> => {
  for (const name of names) await page.keyboard.press(name);
};

t.test('the page in Chromium, with very much in it', needs('chromium'), async (t) => {
  const browser = await startBrowser(t);

  await t.test('packets of half a million fields: some are shown, and how many more there are', async (t) => {
    const lists = Buffer.concat(Array.from({ length: 170_000 }, (_, i) => Buffer.concat([u32(i), Buffer.from('\0')])));
    const said: Line[] = [
      ['>', 1, packet('D', Buffer.from(`M${'a\0'.repeat(250_000)}`)), packet('M', '<a@a.org>', Buffer.alloc(500_000))],
      ['<', 1, c],
      ['>', 1, packet('L', 'X-Long', 'x'.repeat(1_000_000))],
      ['<', 1, c],
      ['>', 1, packet('B', Buffer.alloc(1_000_000, '\u0007'))],
      ['<', 1, packet('O', u32(6), u32(0), u32(0), lists)],
      ['>', 1, packet('R', '<b@b.org>', ...Array.from({ length: 500 }, () => '\u0007'.repeat(2_000)))],
    ];
    const { page, complaints } = await open(browser, await reportFile(t, scene('1', said)));
    await page.getByText('negotiate', { exact: true }).first().waitFor();
    const folded = await page.evaluate<number>(ELEMENTS);
    await page.evaluate(UNFOLD);
    await page.getByText('… 499,801 more fields not shown').waitFor();
    await page.getByText('… 124,800 more fields not shown').waitFor();
    await page.getByText('… 169,803 more fields not shown').waitFor();
    await page.getByText('125,000 macros', { exact: true }).waitFor();
    await page.getByText('… 995,904 more characters not shown').waitFor();
    await page.getByText('… 995,904 more bytes not shown').waitFor();
    await page
      .getByText(/^the first 4,096 of 1,000,0\d\d bytes$/)
      .first()
      .waitFor();
    const most = await page.evaluate<number>(
      'Math.max(...[...document.querySelectorAll(".fields")].map((each) => each.querySelectorAll("dt").length))',
    );
    t.equal(most, 200);
    t.ok((await page.evaluate<number>(ELEMENTS)) - folded < 50_000);
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('times at both ends of what a date can be, and beyond', async (t) => {
    for (const [first, last] of [
      [-8.64e15, 8.64e15],
      [8.64e15, -8.64e15],
      [NaN, Infinity],
      [-Infinity, NaN],
    ] as const) {
      const events: CaptureEvent[] = [];
      for (const event of scene('1', opening('Q', 'a@a.org', ['b@b.org'], []))) {
        events.push({ ...event, time: events.length % 2 === 0 ? first : last });
      }
      const { page, complaints } = await open(browser, await reportFile(t, events));
      await page.evaluate(UNFOLD);
      t.ok((await page.locator('.row').count()) > 10);
      t.strictSame(complaints, []);
      await page.context().close();
    }
  });

  await t.test('macros that no command follows stand for themselves', async (t) => {
    const said: Line[] = [
      ['>', 1, ...Array.from({ length: 5_000 }, (_, i) => macros('M', 'i', String(i))), packet('M', '<a@a.org>')],
      ['<', 1, c],
    ];
    const { page } = await open(browser, await reportFile(t, scene('1', said)));
    await page.getByText('16 macros', { exact: true }).count();
    await keys(page, 'j', 'Enter', 'End', 'ArrowUp', 'ArrowUp', 'ArrowRight');
    t.match(await page.evaluate(FOCUSED), 'Mail server: mailFrom <a@a.org> 16 macros');
    t.equal(await page.locator('.detail .item').count(), 17);
    await page.context().close();
  });

  await t.test('a session of 60,000 packets: a thousand rows at most, wherever one is', async (t) => {
    const many = Array.from({ length: 30_000 }, (_, i): Line[] => [
      ['>', 0.01, packet('L', `X-${i}`, 'y')],
      ['<', 0.01, c],
    ]).flat();
    many.splice(30_000, 0, ['>', 0.01, packet('Z')]);
    const { page, complaints } = await open(browser, await reportFile(t, scene('1', many)));
    await keys(page, 'j', 'Enter', 'End');
    t.match(await page.evaluate(FOCUSED), 'Closed by the mail server');
    t.match(await page.evaluate(ENDS), [Number, String, '60004']);
    const last = page.locator('.row').last();
    t.strictSame(
      [await last.getAttribute('aria-posinset'), await last.getAttribute('aria-setsize')],
      ['60005', '60005'],
    );
    await keys(page, 'ArrowUp', 'ArrowUp');
    t.match(await page.evaluate(FOCUSED), 'X-29999:');
    for (let i = 0; i < 20; i++) await keys(page, 'PageUp');
    t.match(await page.evaluate(FOCUSED), 'X-29849:', 'the rows above are made as one goes there');
    await keys(page, 'Home');
    t.match(await page.evaluate(FOCUSED), '127.0.0.1:40000');
    await keys(page, 'n');
    t.match(await page.evaluate(FOCUSED), 'unrecognized', 'the trouble in the middle');
    for (let i = 0; i < 20; i++) await keys(page, 'PageDown');
    t.equal(await page.evaluate('document.activeElement.dataset.index'), '30303');
    await page.evaluate(FRAMES);
    const [count] = await page.evaluate<[number]>(ENDS);
    t.ok(count <= 1_000, `${count} rows`);
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('a file of 3,000 sessions: a thousand in the list, and the filter finds the others', async (t) => {
    const many = Array.from({ length: 3_000 }, (_, i) =>
      scene(String(i), opening(`Q${i}`, 'a@a.org', [], []), { at: i }),
    ).flat();
    const { page, complaints } = await open(browser, await reportFile(t, many));
    const cards = page.locator('#sessions > li');
    const count = (text: string): Promise<void> => page.locator('#count').getByText(text, { exact: true }).waitFor();
    await count('3,000 sessions; 1,000 of them in the list');
    t.equal(await cards.count(), 1_000);
    await page.getByLabel('Queue id').fill('Q2999');
    await count('1 of 3,000 sessions');
    t.match(await cards.allTextContents(), [/#2999/]);
    t.equal(await page.locator('[aria-selected=true]').count(), 1);
    await page.getByLabel('Queue id').fill('Q');
    await count('3,000 sessions; 1,000 of them in the list');
    await page.getByLabel('Queue id').fill('Q2');
    await count('1,111 of 3,000 sessions; 1,000 of them in the list');
    await keys(page, 'Enter', 'End');
    t.match(await page.evaluate(FOCUSED), /#28\d\d/);
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('who scrolls sees the rows where they were as others come and go', async (t) => {
    const many: Line[] = Array.from({ length: 10_000 }, (_, i): Line => ['>', 0.01, packet('L', `X-${i}`, 'y')]);
    const { page, complaints } = await open(browser, await reportFile(t, scene('1', many)));
    const scroll = async (by: number, times: number): Promise<void> => {
      for (let i = 0; i < times; i++) {
        await page.evaluate(`ladder.scrollBy(0, ${by})`);
        const [row, top] = await page.evaluate<[string, number]>(AT_TOP);
        await page.evaluate(FRAMES);
        const [now, there] = await page.evaluate<[string, number]>(AT_TOP);
        if (row === now) t.ok(Math.abs(top - there) < 3, `${row}: ${top}, ${there}`);
        else t.ok(Math.abs(Number(row) - Number(now)) < 3, `${row}, ${now}`);
      }
    };
    await page.locator('.step').nth(150).waitFor();
    await scroll(2_000, 40);
    const [count, first] = await page.evaluate<[number, string]>(ENDS);
    t.ok(count <= 1_000 && Number(first) > 500, `${count} rows from ${first} on`);
    await scroll(-2_000, 20);
    const [again, earlier] = await page.evaluate<[number, string]>(ENDS);
    t.ok(again <= 1_000 && Number(earlier) < Number(first), `${again} rows from ${earlier} on`);
    await scroll(-4_000, 20);
    t.match(await page.evaluate(ENDS), [Number, '0']);
    t.equal(await page.evaluate('ladder.scrollTop'), 0);
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('who follows a session that does not end has its end in sight, and not all of it', async (t) => {
    await using ladder = createLadder();
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    const many = (from: number): Line[] =>
      Array.from({ length: 4_000 }, (_, i): Line => ['>', 0.01, packet('L', `X-${from + i}`, 'y')]);
    const events = scene('1', [...many(0), ...many(4_000)], { live: true });
    for (const event of events.slice(0, 3)) ladder.event(event);
    await page.locator('.row').nth(2).waitFor();
    for (const event of events.slice(3, 4_003)) ladder.event(event);
    await page.locator('.step', { hasText: 'X-3999:' }).waitFor();
    t.ok((await page.locator('.row').count()) <= 1_000);
    await page.evaluate(`ladder.scrollTop = 500; ${FRAMES}`);
    const [row, top] = await page.evaluate<[string, number]>(AT_TOP);
    for (const event of events.slice(4_003)) ladder.event(event);
    await page.getByText('8,002 packets').waitFor();
    const [now, there] = await page.evaluate<[string, number]>(AT_TOP);
    t.equal(now, row, 'who reads above is not disturbed');
    t.ok(Math.abs(there - top) < 3, `${top}, ${there}`);
    await page.locator('#more', { hasText: '… 4,000 entries below' }).waitFor();
    t.strictSame(complaints, []);
    await page.context().close();
  });
});
