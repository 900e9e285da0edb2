/** Devices in the v86 that is installed. */
import { expect, test } from 'vitest'
import manifest from '../../node_modules/v86/package.json' with { type: 'json' }
import { TESTED_VERSIONS } from '../../src/v86.ts'
import { installed } from './bare.ts'
import { machineSuite } from './suite.ts'

test('the installed v86 is the newest that block86 says it was run with', () => {
  expect(manifest.version.replace(/\+.*/, '')).toBe(TESTED_VERSIONS[1])
})

machineSuite(installed)
