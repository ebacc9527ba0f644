import { fromElsewhere, PASSWORD } from '../harness/client.ts'
import { openHouse, type House } from '../harness/house.ts'

let house: House
beforeAll(async () => void (house = await openHouse()))
afterAll(() => house.close())

test('Uma has forgotten her password, and chooses a new one by a link that works once', async () => {
  const { api } = house
  const { user } = api.db.people
  const post = (path: string, body: object) => api.rest('POST', `/auth/${path}/`, body, undefined, fromElsewhere())
  const logIn = async (password: string) => (await post('token', { email: user.email, password })).status
  const stillIn = async () => (await api.rest('GET', '/users/me/', undefined, 'user')).status

  // She is logged in at home still, but not here; and what she remembers is wrong.
  expect([await stillIn(), await logIn('was it this one?')]).toEqual([200, 401])

  // Whoever asks for a link is told the same, whether or not there is such an account: only the owner of the address learns more.
  const asked = [
    await post('password-reset', { email: user.email }),
    await post('password-reset', { email: 'nobody@assent.test' }),
  ]
  expect(asked.map(({ status }) => status)).toEqual([202, 202])
  expect(asked[0]!.text).toBe(asked[1]!.text)
  const mail = await house.mail(user.email, 'password')
  expect(house.mailbox.arrived.filter(({ to }) => to.includes('nobody@assent.test'))).toEqual([])
  const token = /#token=(\S+)/.exec(mail.text!)![1]!

  // Nothing has changed by asking: somebody else may have asked.
  expect([await stillIn(), await logIn(PASSWORD)]).toEqual([200, 200])

  // A password that is too easy to guess is refused, and costs her nothing: the link is still good.
  const easy = await post('password-reset/confirm', { token, new_password: 'password1234' })
  expect([easy.status, Object.keys(easy.body.errors)]).toEqual([422, ['new_password']])
  const good = 'four words chosen by chance'
  expect((await post('password-reset/confirm', { token, new_password: good })).status).toBe(204)

  // From now on only the new one counts. Whoever was logged in with the old one is out, at home too.
  expect([await stillIn(), await logIn(PASSWORD), await logIn(good)]).toEqual([401, 401, 200])

  // The link is spent, and Uma is told that her password has changed, in case it was not she.
  expect((await post('password-reset/confirm', { token, new_password: 'another one, by a thief' })).status).toBe(422)
  expect((await house.mail(user.email, 'changed')).text).toContain('password')
  expect(await logIn(good)).toBe(200)
})
