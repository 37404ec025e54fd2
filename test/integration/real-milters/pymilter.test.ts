// The same milter in Python: what python3-milter makes of libmilter.
import t from 'tap';
import { startEditsInPython } from '../../helpers/edits-milter.js';
import { needs } from '../../helpers/real.js';
import { editsTests } from './edits.js';

t.test('pymilter', needs('pymilter'), async (t) => editsTests(t, startEditsInPython));
