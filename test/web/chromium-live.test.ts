// The page in a real browser while sessions go on: it shows them as they come, follows, forgets, and says when it is over.
import { createServer, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import type { Locator, Page } from 'playwright-core';
import { createLadder } from '../../lib/web/index.js';
import { Itemizer } from '../../lib/web/model.js';
import { page as pageOf } from '../../lib/web/page.js';
import { packet } from '../helpers/bytes.js';
import { needs } from '../helpers/real.js';
import { AT_TOP, FOCUSED, FRAMES } from './in-page.js';
import { open, picture, startBrowser } from './browser.js';
import { c, opening, ordinary, scene, type Line } from './scenes.js';

function card(page: Page, name: string): Locator {
  return page
    .getByRole('listbox', { name: 'Sessions' })
    .getByRole('option')
    .filter({ hasText: `#${name}` });
}

t.test('the page in Chromium, live', needs('chromium'), async (t) => {
  const browser = await startBrowser(t);

  await t.test('a session is there while it goes on, packet by packet', async (t) => {
    await using ladder = createLadder({ title: 'inet:8891@127.0.0.1' });
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    await page.getByText('Nobody has said anything yet.').waitFor();
    await page.getByText('Live', { exact: true }).waitFor();
    const events = ordinary().filter(({ session }) => session === '1');
    const rows = page.locator('.row');
    for (const event of events.slice(0, 3)) ladder.event(event);
    await card(page, '1').getByText('live', { exact: true }).waitFor();
    await card(page, '1').getByText('no message').waitFor();
    await rows.nth(2).getByText('negotiate').waitFor();
    t.equal(await rows.count(), 3);
    for (const event of events.slice(3, 8)) ladder.event(event);
    await rows.nth(7).getByText('mailFrom').waitFor();
    await card(page, '1').getByText('none yet').waitFor();
    await picture(page, 'live');
    await rows.nth(7).locator('.step').click();
    for (const event of events.slice(8, -1)) ladder.event(event);
    await card(page, '1').getByText('accept').waitFor();
    t.equal(await page.locator('.detail').count(), 1, 'what is unfolded stays so');
    ladder.event(events.at(-1)!);
    await card(page, '1').getByText('live', { exact: true }).waitFor({ state: 'detached' });
    await page.getByText('Closed by the mail server').waitFor();
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('the newest is followed, until somebody chooses another', async (t) => {
    await using ladder = createLadder();
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    const title = page.getByRole('heading', { level: 2 });
    const come = async (name: string): Promise<void> => {
      for (const event of scene(name, [], { live: true })) ladder.event(event);
      await card(page, name).getByText('2 packets').waitFor();
    };
    await come('1');
    await come('2');
    await title.getByText('Session 2').waitFor();
    await card(page, '1').click();
    await title.getByText('Session 1').waitFor();
    t.notOk(await page.getByLabel('Follow the newest').isChecked());
    await come('3');
    t.equal(await title.first().textContent(), 'Session 1');
    t.match(await page.evaluate<string>(FOCUSED), '#1', 'the focus stays where it is');
    await page.getByLabel('Follow the newest').check();
    await title.getByText('Session 3').waitFor();
    await come('4');
    await title.getByText('Session 4').waitFor();
    await page.getByLabel('Queue id').fill('nothing');
    await page.getByText('0 of 4 sessions').waitFor();
    for (const event of scene('5', opening('nothing-1', '', ['b@b.org'], []), { live: true })) ladder.event(event);
    await title.getByText('Session 5').waitFor();
    await page.getByText('1 of 5 sessions').waitFor();
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('whoever is at the end stays there; whoever reads above is not disturbed', async (t) => {
    await using ladder = createLadder();
    const { url } = await ladder.listen();
    const { page } = await open(browser, url);
    const many = (from: number): Line[] =>
      Array.from({ length: 300 }, (_, i): Line => ['>', 1, packet('L', `X-${from + i}`, 'y')]);
    const events = scene('1', [...many(0), ...many(300), ['<', 1, c]], { live: true });
    for (const event of events.slice(0, 3)) ladder.event(event);
    await page.locator('.row').nth(2).waitFor();
    for (const event of events.slice(3, 303)) ladder.event(event);
    await page.locator('.step', { hasText: 'X-299:' }).waitFor();
    await page.evaluate(`ladder.scrollTop = 100; ${FRAMES}`);
    const place = await page.evaluate<[string, number]>(AT_TOP);
    for (const event of events.slice(303)) ladder.event(event);
    await card(page, '1').getByText('603 packets').waitFor();
    t.strictSame(await page.evaluate(AT_TOP), place);
    await page.context().close();
  });

  await t.test('what the server keeps no more goes from the page as well', async (t) => {
    await using ladder = createLadder({ maxSessions: 2 });
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    for (const name of ['1', '2', '3']) for (const event of scene(name, [])) ladder.event(event);
    await page.getByText('2 sessions; 1 older one not kept any more').waitFor();
    t.equal(await card(page, '1').count(), 0);
    await page.context().close();

    await using small = createLadder({ maxLength: 20_000 });
    const place = await small.listen();
    const other = await open(browser, place.url);
    for (const event of scene(
      '1',
      Array.from({ length: 100 }, () => ['>', 1, packet('L', 'a', 'b')] as const),
    ))
      small.event(event);
    await other.page.getByText(/^\d+ earlier entries of this session not kept any more$/).waitFor();
    await other.page.getByText('Closed by the mail server').waitFor();
    t.strictSame([...complaints, ...other.complaints], []);
    await other.page.context().close();
  });

  await t.test('when it is over the page says so, and asks no more', async (t) => {
    const ladder = createLadder();
    const { url } = await ladder.listen();
    const { page, complaints } = await open(browser, url);
    for (const event of scene('1', [], { live: true })) ladder.event(event);
    await card(page, '1').getByText('live', { exact: true }).waitFor();
    await ladder.close();
    await page.getByText('Ended: nothing more will come').waitFor();
    await card(page, '1').getByText('live', { exact: true }).waitFor({ state: 'detached' });
    t.equal(await page.evaluate('document.querySelectorAll(".row").length'), 3, 'what was there can be read');
    t.strictSame(complaints, []);
    await page.context().close();
  });

  await t.test('a connection that is lost is made again, and everything comes anew', async (t) => {
    const listeners: ServerResponse[] = [];
    const server = createServer((request, response) => {
      if (request.url !== '/events') {
        response.end(pageOf({}));
        return;
      }
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write('retry: 1\n\ndata: {"kind":"hello"}\n\n');
      listeners.push(response);
      server.emit('listener');
    });
    const say = (name: string): void => {
      const itemizer = new Itemizer();
      const item = itemizer.item({ type: 'open', session: name, time: 1_000, text: 'hello' });
      listeners.at(-1)!.write(`data: ${JSON.stringify(item)}\n\n`);
    };
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close().closeAllConnections());
    const { page } = await open(browser, `http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    if (listeners.length === 0) await once(server, 'listener');
    say('old');
    await card(page, 'old').waitFor();
    listeners[0]!.destroy();
    await once(server, 'listener');
    say('new');
    await card(page, 'new').waitFor();
    t.equal(await card(page, 'old').count(), 0);
    await page.getByText('Live', { exact: true }).waitFor();
    await page.context().close();
  });
});
