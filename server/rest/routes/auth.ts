import { stringifySetCookie } from 'cookie'
import { unauthenticated } from '../../errors.ts'
import { csrfToken } from '../../http/csrf.ts'
import { cookieName, toCookie } from '../../http/identity.ts'
import { TOKEN_LIFETIME } from '../../http/tokens.ts'
import { MIN_PASSWORD_LENGTH } from '../../passwords.ts'
import { prepared } from '../../sql/prepared.ts'
import type { List } from '../lists.ts'
import { del, get, getList, idOf, member, perform, post, type Answer, type Call } from '../route.ts'
import { PASSWORD, TEXT } from '../schemas.ts'

const ME = prepared(
  `select app_hidden.user_document(u)::text as document from app_public.get_current_user() u where u.id is not null`,
)

export async function showMe(call: Call): Promise<string> {
  const [row] = await call.ask<{ document: string }>(ME)
  if (!row) throw unauthenticated()
  return row.document
}

const text = ({ body }: Call, name: string) => body[name] as string

const logIn = (call: Call, byCookie = false) =>
  call.passwords.login(call.caller, text(call, 'email'), text(call, 'password'), byCookie)

async function showTokens(call: Call, userId: string, session: string, refreshToken: string): Promise<Answer> {
  const { token } = call.tokens.sign(session, userId)
  const user = JSON.parse(await showMe({ ...call, ask: call.askAs({ ...call.caller, session, byCookie: false }) }))
  const answer = { access_token: token, refresh_token: refreshToken, token_type: 'Bearer', expires_in: TOKEN_LIFETIME, user }
  return { status: 200, body: JSON.stringify(answer) }
}

async function logInByToken(call: Call): Promise<Answer> {
  const { userId, secret, refreshToken } = await logIn(call)
  return showTokens(call, userId, secret, refreshToken!)
}

async function refresh(call: Call): Promise<Answer> {
  const [row] = await call.ask<{ user_id: string | null; session_secret: string; refresh_token: string }>({
    ...prepared('select * from app_hidden.refresh_session($1)'),
    values: [text(call, 'refresh_token')],
  })
  if (!row!.user_id) throw unauthenticated()
  return showTokens(call, row!.user_id, row!.session_secret, row!.refresh_token)
}

/** HttpOnly: no script reads it. Strict: no other site's page has it sent. Without an age it ends with the browser. */
const setCookie = ({ isSecure }: Call, value: string, maxAge?: number) => ({
  'set-cookie': stringifySetCookie({
    name: cookieName(isSecure),
    value,
    httpOnly: true,
    sameSite: 'strict',
    secure: isSecure,
    path: '/',
    ...(maxAge !== undefined && { maxAge }),
  }),
})

async function showSession(call: Call): Promise<Answer> {
  return { status: 200, body: `{"user":${await showMe(call)},"csrf_token":"${csrfToken(call.caller.session)}"}` }
}

async function logInByCookie(call: Call): Promise<Answer> {
  const { secret } = await logIn(call, true)
  const caller = { ...call.caller, session: secret, byCookie: true }
  const answer = await showSession({ ...call, caller, ask: call.askAs(caller) })
  return { ...answer, headers: setCookie(call, toCookie(secret)) }
}

const endSession = perform('select app_public.logout()')
/**
 * The browser is told to drop what it keeps of the person, too. "cookies" is not in the list, because that would take those of
 * all other hosts of the site.
 */
const logOut = async (call: Call): Promise<Answer> => ({
  ...(await endSession(call)),
  headers: { ...setCookie(call, '', 0), 'clear-site-data': '"cache", "storage"' },
})

async function changePassword({ caller, body, passwords, ask }: Call): Promise<Answer> {
  await passwords.change(caller, body['old_password'], body['new_password'], ask)
  return { status: 204 }
}

async function resetPassword(call: Call): Promise<Answer> {
  await call.passwords.reset(call.caller, text(call, 'token'), text(call, 'new_password'))
  return { status: 204 }
}

const requestReset = perform('select app_public.request_password_reset($1)', member('email'))

const sessions: List = {
  from: 'app_hidden.my_sessions() d',
  document: 'd.document',
  orderings: { '-created_at': 'd.created_at', created_at: 'd.created_at' },
  filters: {},
}

/** A login needs no credentials, because it brings them. */
const LOGIN = { open: true, unrepeatable: true, body: { email: TEXT, password: TEXT }, required: ['email', 'password'] } as const

export const auth = [
  post('/auth/token/', 'Log in: an access token of 15 minutes, and a refresh token', {
    ...LOGIN,
    shows: 'Tokens',
    errors: ['UNAUTHENTICATED', 'TOO_MANY_ATTEMPTS'],
    run: logInByToken,
  }),
  post('/auth/refresh/', 'Exchange a refresh token for new tokens; one used again after 10 seconds ends its session', {
    open: true,
    unrepeatable: true,
    body: { refresh_token: TEXT },
    required: ['refresh_token'],
    shows: 'Tokens',
    errors: ['UNAUTHENTICATED'],
    run: refresh,
  }),
  post('/auth/session/', 'Log a browser in: an HttpOnly cookie', {
    ...LOGIN,
    fromOwnOrigin: true,
    shows: 'BrowserSession',
    errors: ['UNAUTHENTICATED', 'FORBIDDEN', 'TOO_MANY_ATTEMPTS'],
    run: logInByCookie,
  }),
  get('/auth/session/', 'Who is logged in, and the token that changes by cookie need as X-CSRF-Token', {
    shows: 'BrowserSession',
    run: showSession,
  }),
  del('/auth/session/', 'Log out', { run: logOut }),
  getList('/auth/sessions/', "One's own live sessions", 'Session', sessions),
  del('/auth/sessions/:id/', "End a session of one's own", { run: perform('select app_hidden.end_session($1)', idOf) }),
  del('/auth/sessions/', "End all other sessions of one's own", { run: perform('select app_hidden.end_other_sessions()') }),
  post('/auth/password/', "Change one's own password, which ends one's other sessions", {
    slow: true,
    body: { old_password: TEXT, new_password: PASSWORD },
    required: ['old_password', 'new_password'],
    errors: ['TOO_MANY_ATTEMPTS'],
    run: changePassword,
  }),
  post(
    '/auth/password-reset/',
    'Request a mail with a link to set a new password; the answer is the same for an unknown address',
    {
      open: true,
      unrepeatable: true,
      body: { email: TEXT },
      required: ['email'],
      status: 202,
      shows: 'Nothing',
      run: async (call) => ({ ...(await requestReset(call)), status: 202, body: '{}' }),
    },
  ),
  post('/auth/password-reset/confirm/', 'Choose a password by that link, or by that of an invitation, which ends all sessions', {
    open: true,
    unrepeatable: true,
    // Its length is judged after the link, which is what counts first.
    body: { token: TEXT, new_password: { ...TEXT, description: `At least ${MIN_PASSWORD_LENGTH} characters.` } },
    required: ['token', 'new_password'],
    run: resetPassword,
  }),
]
