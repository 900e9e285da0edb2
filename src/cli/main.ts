/** What the command `block86` starts. */
import { main } from './verbs.ts'

process.exitCode = await main(process.argv.slice(2))
