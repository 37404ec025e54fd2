// The page in a real browser: what is hostile stays text, the filter and the keyboard work, and it can be read by everybody.
import t, { type Test } from 'tap';
import type { Locator, Page } from 'playwright-core';
import { createLadder } from '../../lib/web/index.js';
import { packet } from '../helpers/bytes.js';
import { needs } from '../helpers/real.js';
import { FOCUSED, HARM, POOR_CONTRAST, STRANGE, UNFOLD, WIDTH } from './in-page.js';
import { open, picture, reportFile, startBrowser } from './browser.js';
import { hostile, opening, ordinary, scene, type Line } from './scenes.js';

/** The cards of the sessions: the choices of the filter are options as well. */
function cardsOf(page: Page): Locator {
  return page.getByRole('listbox', { name: 'Sessions' }).getByRole('option');
}

/** Unfolds all of each session, and says what is in the page that text cannot be. */
async function turnOver(page: Page): Promise<string[]> {
  const found: string[] = [];
  for (const card of await cardsOf(page).all()) {
    await card.click();
    await page.evaluate(UNFOLD);
    found.push(...(await page.evaluate<string[]>(STRANGE)));
  }
  return found;
}

t.test('the page in Chromium', needs('chromium'), async (t) => {
  const browser = await startBrowser(t);

  await t.test('what is hostile is text: in a report, wide and narrow', async (t) => {
    const url = await reportFile(t, hostile(), { title: '<img src=x onerror=alert(0)>' });
    for (const [name, width] of [
      ['wide', 1400],
      ['narrow', 400],
    ] as const) {
      const { page, complaints } = await open(browser, url, { viewport: { width, height: 900 } });
      t.strictSame(await turnOver(page), []);
      await picture(page, `hostile-${name}`);
      t.equal(await page.title(), '<img src=x onerror=alert(0)> - milter-stream');
      await cardsOf(page).first().click();
      t.ok((await page.getByText('<script>alert(1)</script>', { exact: true }).count()) > 5);
      t.ok(
        (await page.locator('.escape', { hasText: '\\u{202e}' }).count()) > 0,
        'what turns text round is written out',
      );
      t.notMatch(await page.locator('main').textContent(), /(?!\n)[\p{Cc}\p{Cf}]/u, 'nothing that hides');
      await cardsOf(page).filter({ hasText: '#big' }).click();
      await page.getByText('… 1,030,904 more characters not shown').waitFor();
      await page.getByText(/^the first 4,096 of 1,035,01\d bytes$/).waitFor();
      t.strictSame(complaints, []);
      await page.context().close();
    }
  });

  await t.test('what is hostile is text: from the server, and the page itself could do no harm', async (t) => {
    await using ladder = createLadder();
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    for (const event of hostile()) ladder.event(event);
    await page.getByText('9 sessions').waitFor();
    t.strictSame(await turnOver(page), []);
    t.strictSame(complaints, []);
    t.strictSame(await page.evaluate(HARM), ['TypeError', 'TypeError', 'TypeError', 'TypeError']);
    await page.context().close();
  });

  await t.test('the filter: queue id, sender, verdict, problems', async (t) => {
    const { page, complaints } = await open(browser, await reportFile(t, ordinary()));
    const cards = cardsOf(page);
    const filtered = async (count: string): Promise<void> => page.getByText(count, { exact: true }).waitFor();
    await filtered('4 sessions');
    await page.getByLabel('Queue id').fill('xm0c');
    await filtered('1 of 4 sessions');
    t.strictSame(await cards.filter({ visible: true }).locator('.name').allTextContents(), ['#2']);
    t.match(await page.getByRole('heading', { level: 2 }).first().textContent(), 'Session 2', 'and it is shown');
    await page.getByLabel('Queue id').fill('');
    await page.getByLabel('Sender').fill('MÜLLER');
    await filtered('1 of 4 sessions');
    await page.getByLabel('Sender').fill('example');
    await filtered('3 of 4 sessions');
    await page.getByLabel('Verdict').selectOption('quarantine');
    await filtered('0 of 4 sessions');
    await page.getByText('No session is like that.').waitFor();
    await page.getByRole('button', { name: 'Clear' }).click();
    await filtered('4 sessions');
    for (const [verdict, name] of [
      ['accept', '#1'],
      ['reject', '#2'],
      ['aborted', '#3'],
      ['quarantine', '#4'],
    ] as const) {
      await page.getByLabel('Verdict').selectOption(verdict);
      await filtered('1 of 4 sessions');
      t.strictSame(await cards.filter({ visible: true }).locator('.name').allTextContents(), [name]);
    }
    await page.getByRole('button', { name: 'Clear' }).click();
    await page.getByLabel('With problems').check();
    await filtered('1 of 4 sessions');
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('all of it by keyboard', async (t) => {
    const { page, complaints } = await open(browser, await reportFile(t, ordinary()));
    const keys = async (...names: string[]): Promise<void> => {
      for (const name of names) await page.keyboard.press(name);
    };
    const focused = async (): Promise<string> => page.evaluate<string>(FOCUSED);
    const chosen = page.locator('[aria-selected=true] .name');
    await keys('?');
    await page.getByRole('dialog', { name: 'Keys' }).waitFor();
    await picture(page, 'help');
    await keys('j', 'Escape');
    t.notOk(await page.getByRole('dialog').isVisible());
    t.equal(await chosen.textContent(), '#1');

    await keys('/');
    await page.keyboard.type('4zf1xn5');
    await page.getByText('1 of 4 sessions').waitFor();
    await keys('Enter');
    t.match(await focused(), /^.*#3/);
    await keys('Enter');
    t.match(await focused(), '127.0.0.1:40000 to 127.0.0.1:8891');
    await keys('ArrowDown', 'ArrowDown', 'ArrowDown');
    t.match(await focused(), 'Mail server: connect mail.example.org [192.0.2.25]:25000 3 macros');
    await keys('ArrowRight');
    t.equal(await page.locator('[aria-expanded=true]').count(), 1);
    const detail = page.locator('.detail');
    t.match(
      await detail.innerText(),
      /macro for connect[^]*\{daemon_name\}\s+smtpd[^]*connect, code 'C'[^]*hostname\s+mail.example.org/,
    );
    t.match(await detail.innerText(), '0000  00 00 00 20 43 6d 61 69  6c 2e 65 78 61 6d 70 6c  ··· Cmail.exampl');
    await keys('Tab');
    t.equal(await page.evaluate('document.activeElement.tagName'), 'PRE', 'the bytes can be scrolled');
    await keys('Escape');
    t.equal(await detail.count(), 0);
    t.match(await focused(), 'Mail server: connect');
    await keys('Enter', 'ArrowLeft');
    t.equal(await detail.count(), 0);

    await keys('n');
    t.match(await focused(), 'addHeader X-Too-Early: yes ! Nobody has asked for it');
    await keys('n', 'n');
    t.match(await focused(), /tempFail .*answered in 2.30 s slow/);
    await keys('p', 'End');
    t.match(await focused(), 'Closed by the mail server');
    await keys('Home', 'PageDown', 'PageUp', 'ArrowUp');
    t.match(await focused(), '127.0.0.1:40000');
    await keys('Enter', 'ArrowLeft', 'Escape');
    t.match(await focused(), '#3', 'back in the list');
    await keys('/', 'Escape');
    await page.getByText('4 sessions', { exact: true }).waitFor();
    await keys('Escape', 'ArrowDown');
    t.match(await focused(), '#4');
    await keys('Home', 'j', 'k', 'j', 'End', 'ArrowUp');
    t.equal(await chosen.textContent(), '#3');
    t.equal(await page.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'solid');
    const stops = await page.locator('#sessions [tabindex="0"], .step[tabindex="0"]').count();
    t.equal(stops, 2, 'Tab stops once in the list and once in the ladder');
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('a session of thousands of packets: rows are made as they are needed', async (t) => {
    const body: Line[] = Array.from({ length: 5_000 }, (_, i): Line => ['>', 0.1, packet('L', `X-${i}`, 'y')]);
    const said = [...opening('Q', 'a@example.org', ['b@example.org'], []), ...body];
    const { page, complaints } = await open(browser, await reportFile(t, scene('1', said)));
    const rows = page.locator('.row');
    t.ok((await rows.count()) < 1_000);
    await cardsOf(page).press('Enter');
    await page.keyboard.press('End');
    await page.locator('.step:focus', { hasText: 'Closed by the mail server' }).waitFor();
    t.ok((await rows.count()) < 1_000, 'those that are far away are not there');
    await page.getByText('… 4,915 entries above').waitFor();
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('scrolling makes the rows, too, and so does printing', async (t) => {
    const body: Line[] = Array.from({ length: 1_000 }, (_, i): Line => ['>', 0.1, packet('L', `X-${i}`, 'y')]);
    const { page } = await open(browser, await reportFile(t, scene('1', body)));
    const last = page.locator('.step', { hasText: 'X-400:' });
    t.equal(await last.count(), 0);
    while ((await last.count()) === 0) {
      await page.evaluate('new Promise(requestAnimationFrame).then(() => (ladder.scrollTop = ladder.scrollHeight))');
    }
    await page.evaluate('addEventListener("beforeprint", () => (self.printed = rows.childElementCount))');
    const before = await page.evaluate('[ladder.scrollTop, rows.childElementCount]');
    await page.emulateMedia({ media: 'print' });
    t.notOk(await page.locator('nav').isVisible());
    t.ok((await page.pdf()).length > 10_000);
    t.equal(await page.evaluate('self.printed'), 1_004);
    await page.emulateMedia({ media: 'screen' });
    t.strictSame(await page.evaluate('[ladder.scrollTop, rows.childElementCount]'), before, 'and then it is as it was');
    await page.context().close();
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    await t.test(`it can be read: ${colorScheme}`, async (t) => readable(t, colorScheme));
  }

  async function readable(t: Test, colorScheme: 'light' | 'dark'): Promise<void> {
    const url = await reportFile(t, ordinary(), { title: 'evening.jsonl' });
    const { page, complaints } = await open(browser, url, { colorScheme, reducedMotion: 'reduce' });
    await picture(page, colorScheme);
    await cardsOf(page).filter({ hasText: '#3' }).click();
    await page.evaluate(UNFOLD);
    t.strictSame(await page.evaluate(POOR_CONTRAST), [], 'contrast of all text is at least 4.5');
    await page.locator('.step', { hasText: 'addHeader' }).focus();
    await page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))');
    await picture(page, `${colorScheme}-unfolded`);
    t.strictSame(complaints, []);
    await page.context().close();

    const narrow = await open(browser, url, { colorScheme, viewport: { width: 400, height: 800 } });
    t.equal(await narrow.page.evaluate(WIDTH), 400);
    await picture(narrow.page, `${colorScheme}-narrow`);
    await narrow.page.locator('.step', { hasText: 'mailFrom' }).click();
    await narrow.page.locator('.detail').scrollIntoViewIfNeeded();
    await picture(narrow.page, `${colorScheme}-narrow-unfolded`);
    t.equal(await narrow.page.evaluate(WIDTH), 400);
    await narrow.page.context().close();
  }
});
