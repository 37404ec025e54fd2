// The suite with sessions in processes that read their sockets themselves.
import t from 'tap';
import { childVariant } from '../helpers/variants.js';
import { suite } from './suite/index.js';

suite(t, childVariant);
