// A milter in C on Sendmail's libmilter: every edit and every verdict of its API.
import t from 'tap';
import { startEditsInC } from '../../helpers/edits-milter.js';
import { needs } from '../../helpers/real.js';
import { editsTests, mail, play, xDo } from './edits.js';

t.test('libmilter', needs('libmilter'), async (t) => {
  editsTests(t, startEditsInC);

  t.test('a header that is no UTF-8 keeps its bytes', async (t) => {
    const address = await startEditsInC(t);
    const [odd, copy] = ['X-Odd: na\xefve \xff\x80\r\n', 'X-Copy: na\xefve \xff\x80\r\n'];
    const message = (headers: string): Buffer =>
      Buffer.from(`From: a@example.org\r\n${xDo('copy|X-Odd')}${headers}\r\nbody\r\n`, 'latin1');
    for (const like of ['postfix', 'sendmail'] as const) {
      const result = await play(address, { ...mail(''), message: message(odd) }, { like });
      t.strictSame(result.message, message(odd + copy));
    }
  });
});
