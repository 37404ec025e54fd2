// A real Postfix, milters in this process.
import t from 'tap';
import { asyncFactory } from './factories.js';
import { onPostfix } from './suite/index.js';

onPostfix(t, asyncFactory);
