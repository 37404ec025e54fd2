// examples/testmilter.test.ts: how to test a milter, as its author runs it.
import t from 'tap';
import { demandBuild } from '../helpers/built.js';
import { runProgram } from '../helpers/example.js';

demandBuild();

t.test('the tests of the example milter run with node:test, and pass', async (t) => {
  const program = runProgram(process.execPath, ['--import', 'tsx', '--test', 'examples/testmilter.test.ts']);
  t.equal(await program.ended, 0, program.err());
  t.match(program.out(), /(tests|pass) 3\n/);
  t.match(program.out(), /fail 0\n/);
});
