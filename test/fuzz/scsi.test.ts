/** Many random commands to a SCSI target. */
import { test } from 'vitest'
import { fuzzTarget } from '../devices/scsi/fuzz.ts'
import { seeded } from '../random.ts'

test('random SCSI commands end with a status', () => seeded((random) => fuzzTarget(random, 50_000)))
