import { defineConfig } from 'vitest/config'

const slow = [
  'test/guests/**/*.test.ts',
  'test/crash/**/*.test.ts',
  'test/fuzz/**/*.test.ts',
  'test/interop/**/*.test.ts',
  'test/browser/**/*.test.ts',
  'test/block/formats/faults.test.ts',
]
/** What is switched off by the environment stays off in a process: these want one of their own. */
const alone = ['test/block/protocols/file-plain.test.ts', 'test/block/protocols/no-ring.test.ts']

const quick = { testTimeout: 60_000, hookTimeout: 60_000 }

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...slow, ...alone],
          isolate: false,
          ...quick,
        },
      },
      { test: { name: 'unit-alone', include: alone, ...quick } },
      { test: { name: 'slow', include: slow, testTimeout: 600_000, hookTimeout: 600_000 } },
    ],
  },
})
