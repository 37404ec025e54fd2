// A real Postfix, milters in processes that read its socket themselves.
import t from 'tap';
import { childFactory } from './factories.js';
import { onPostfix } from './suite/index.js';

onPostfix(t, childFactory);
