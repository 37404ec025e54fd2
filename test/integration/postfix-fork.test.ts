// A real Postfix, milters in processes.
import t from 'tap';
import { forkFactory } from './factories.js';
import { onPostfix } from './suite/index.js';

onPostfix(t, forkFactory);
