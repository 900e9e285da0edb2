/** What each test of a file has for itself. */
import { afterEach, beforeEach } from 'vitest'
import { temporaryFolder } from './tools.ts'

/** A folder for each test, and what ends after it, the last first; the folder goes at the very end. */
export function eachTest(): { readonly folder: ReturnType<typeof temporaryFolder>; readonly ends: (() => unknown)[] } {
  let folder: ReturnType<typeof temporaryFolder> | undefined
  const ends: (() => unknown)[] = []
  beforeEach(() => {
    folder = temporaryFolder()
  })
  afterEach(async () => {
    try {
      for (let end = ends.pop(); end !== undefined; end = ends.pop()) await end()
    } finally {
      folder?.remove()
    }
  })
  return {
    get folder() {
      return folder!
    },
    ends,
  }
}
