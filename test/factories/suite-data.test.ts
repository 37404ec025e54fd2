// The suite with all sessions in this process, their sockets read by 'data' events.
import t from 'tap';
import { dataVariant } from '../helpers/variants.js';
import { suite } from './suite/index.js';

suite(t, dataVariant);
