// The suite with sessions in threads.
import t from 'tap';
import { threadVariant } from '../helpers/variants.js';
import { suite } from './suite/index.js';

suite(t, threadVariant);
