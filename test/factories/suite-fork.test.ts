// The suite with sessions in processes.
import t from 'tap';
import { forkVariant } from '../helpers/variants.js';
import { suite } from './suite/index.js';

suite(t, forkVariant);
