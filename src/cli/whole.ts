/** The program in one piece, for {@link file://./start.ts}. */
export { main } from './verbs.ts'
