// A real Sendmail, milters in threads.
import t from 'tap';
import { threadFactory } from './factories.js';
import { onSendmail } from './suite/index.js';

onSendmail(t, threadFactory);
