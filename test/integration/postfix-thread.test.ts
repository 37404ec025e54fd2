// A real Postfix, milters in threads.
import t from 'tap';
import { threadFactory } from './factories.js';
import { onPostfix } from './suite/index.js';

onPostfix(t, threadFactory);
