/** What the test says, and what the TypeScript programs share. */

export const url = variable("HOURPASS_URL");
export const name = variable("NAME");
export const password = variable("PASSWORD");
export const userId = Number(variable("USER_ID"));
export const ownKeyId = variable("OWN_KEY_ID");
export const userKeyId = variable("USER_KEY_ID");
export const group = variable("GROUP");
export const webhookId = Number(variable("WEBHOOK_ID"));

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

export function succeeded<T>(call: string, answer: T | undefined): T {
  if (answer === undefined) throw new Error(call);
  console.log(call);
  return answer;
}

export function check(condition: boolean): void {
  if (!condition) throw new Error("Not as expected");
}
