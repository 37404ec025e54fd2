import { soakCalls, soakChildren } from './variants.js';

soakChildren('postfix');
soakCalls('postfix');
