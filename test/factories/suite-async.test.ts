// The suite with all sessions in this process.
import t from 'tap';
import { asyncVariant } from '../helpers/variants.js';
import { suite } from './suite/index.js';

suite(t, asyncVariant);
