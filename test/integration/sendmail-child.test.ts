// A real Sendmail, milters in processes that read its socket themselves.
import t from 'tap';
import { childFactory } from './factories.js';
import { onSendmail } from './suite/index.js';

onSendmail(t, childFactory);
