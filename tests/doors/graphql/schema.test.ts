import { readFile } from 'node:fs/promises'
import {
  buildSchema,
  isEnumType,
  isInputObjectType,
  isIntrospectionType,
  isObjectType,
  isSpecifiedScalarType,
  type GraphQLNamedType,
  type GraphQLSchema,
} from 'graphql'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'
import { printGraphQL } from '../../harness/schema.ts'

let db: TestDatabase
let sdl: string
let schema: GraphQLSchema

beforeAll(async () => {
  db = await cloneDatabase()
  sdl = await printGraphQL(db.urls.auth)
  schema = buildSchema(sdl)
})
afterAll(() => db.close())

/** Something with a name in the schema: `Type`, `Type.field` or `Type.field.argument`. */
interface Named {
  readonly path: string
  readonly name: string
  readonly description: string | null | undefined
}

function inside(type: GraphQLNamedType): Named[] {
  const named = ({ name, description }: Omit<Named, 'path'>, ...path: string[]): Named => ({
    path: [...path, name].join('.'),
    name,
    description,
  })
  if (isEnumType(type)) return type.getValues().map((value) => named(value, type.name))
  if (!isObjectType(type) && !isInputObjectType(type)) return []
  return Object.values<any>(type.getFields()).flatMap((field) => [
    named(field, type.name),
    ...(field.args ?? []).map((argument: Named) => named(argument, type.name, field.name)),
  ])
}

/** Mutations that the server adds, around functions that no caller may execute. */
const ofServer = ['changePassword', 'createUser', 'login', 'resetPassword']

const types = () =>
  Object.values(schema.getTypeMap()).filter((type) => !isIntrospectionType(type) && !isSpecifiedScalarType(type))

test('is server/graphql/schema.graphql; if it has changed on purpose, run: npm run dump', async () => {
  expect(sdl).toBe(await readFile('server/graphql/schema.graphql', 'utf8'))
})

test('changes rows only by functions of the database', async () => {
  const owner = await db.connect('owner')
  const { rows } = await owner.query<{ name: string }>(`
    select proname as name from pg_proc where pronamespace = 'app_public'::regnamespace and provolatile = 'v'`)
  const functions = rows.map(({ name }) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()))
  const mutations = Object.keys(schema.getMutationType()!.getFields())
  expect(mutations.toSorted()).toEqual([...functions, ...ofServer].toSorted())
})

test('names no secret, and returns none but the tokens of a login', () => {
  const names = types().flatMap((type) => [type.name, ...inside(type).map(({ path }) => path)])
  expect(names.filter((name) => /secret|session|hash|credential|digest/i.test(name))).toEqual([])
  const outputs = types()
    .filter((type) => isObjectType(type) && type !== schema.getMutationType())
    .flatMap(inside)
  const secretive = outputs.filter(({ name }) => /password|token/i.test(name)).map(({ path }) => path)
  expect(secretive).toEqual(['LoginPayload.accessToken', 'LoginPayload.refreshToken'])
})

test('describes everything that comes from the database', () => {
  const theirs = /(Condition|Filter|Connection|Edge|Aggregates?|OrderBy|GroupBy)$/ // These come from libraries, and their names say it all.
  const servers = new RegExp(`^(${ofServer.join('|')})(Input|Payload)$`, 'i')
  const ours = types().filter(({ name }) => !theirs.test(name) && !servers.test(name))
  const named = ours.flatMap((type) => [{ path: type.name, description: type.description }, ...inside(type)])
  expect(named.filter(({ description }) => !description).map(({ path }) => path)).toEqual([])
})
