// node picture.js DATA.json PICTURE.png: a dashboard with its data, as a picture.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const [, , data, picture] = process.argv;
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-gpu'],
});
try {
  const page = await browser.newPage({ viewport: { width: 1240, height: 600 } });
  const wrong = [];
  page.on('pageerror', (e) => wrong.push(String(e)));
  await page.setContent(readFileSync(join(here, 'page.html'), 'utf8'));
  await page.addStyleTag({ path: join(here, 'node_modules/uplot/dist/uPlot.min.css') });
  await page.addScriptTag({ path: join(here, 'node_modules/uplot/dist/uPlot.iife.min.js') });
  await page.addScriptTag({ path: join(here, 'draw.js') });
  const panels = await page.evaluate((d) => draw(d), JSON.parse(readFileSync(data, 'utf8')));
  await page.waitForTimeout(200); // uPlot draws in a microtask, the browser in a frame
  const canvases = await page.evaluate(() => document.querySelectorAll('canvas').length);
  await page.screenshot({ path: picture, fullPage: true });
  if (wrong.length > 0) throw new Error(wrong.join('\n'));
  console.log(`${panels} panels, ${canvases} canvases`);
} finally {
  await browser.close();
}
