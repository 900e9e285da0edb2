import { defineConfig } from 'vitest/config'

const slow = ['test/guests/**', 'test/crash/**', 'test/fuzz/**', 'test/interop/**', 'test/browser/**']

export default defineConfig({
  test: {
    projects: [
      {
        test: { name: 'unit', include: ['test/**/*.test.ts'], exclude: slow, testTimeout: 60_000, hookTimeout: 60_000 },
      },
      {
        test: {
          name: 'slow',
          include: slow.map((place) => `${place}/*.test.ts`),
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
})
