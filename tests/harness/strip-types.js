import { stripTypeScriptTypes } from 'node:module'

/** Jest's transform: types are stripped just as Node strips them when the product runs. */
export default { process: (source) => ({ code: stripTypeScriptTypes(source) }) }
