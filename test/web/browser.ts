/** A real browser, and everything that a page does in it that it must not. */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core';
import type { Test } from 'tap';
import { decodeConversation, type CaptureEvent } from '../../lib/capture/index.js';
import { htmlReport, type ReportOptions } from '../../lib/web/index.js';
import { collect } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { demand } from '../helpers/real.js';

export async function startBrowser(t: Test): Promise<Browser> {
  demand('chromium');
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
  t.teardown(async () => {
    const gone = browser.isConnected() ? once(browser as never, 'disconnected') : undefined;
    await browser.close();
    await gone;
  });
  return browser;
}

export interface Opened {
  readonly page: Page;
  /** What it ran, said or fetched: nothing, where all is well. */
  readonly complaints: string[];
}

/** Opens a page, and notes what it does. */
export async function open(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Opened> {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('dialog', (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on('console', (message) => complaints.push(`console: ${message.text()}`));
  page.on('pageerror', (error) => complaints.push(`error: ${error.message}`));
  page.on('popup', (popup) => complaints.push(`popup: ${popup.url()}`));
  const own = url.startsWith('file:') ? [url] : [url, `${url}events`];
  page.on('request', (request) => {
    if (!own.includes(request.url()) && !request.url().startsWith('data:'))
      complaints.push(`request: ${request.url()}`);
  });
  page.setDefaultTimeout(20_000);
  await page.goto(url);
  return { page, complaints };
}

/** A report in a file. @returns its URL */
export async function reportFile(t: Test, events: readonly CaptureEvent[], options?: ReportOptions): Promise<string> {
  const file = join(shortFolder(t), 'report.html');
  writeFileSync(file, (await collect(htmlReport(decodeConversation(events), options))).join(''));
  return pathToFileURL(file).href;
}

/** A picture for people, where MILTER_SCREENSHOTS names a folder for them. */
export async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env['MILTER_SCREENSHOTS'];
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`) });
}
