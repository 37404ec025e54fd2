/** The address of the SMTP client, as two mail servers write it. */

/**
 * An address without the marks of its family: Sendmail sends IPv6 addresses as `IPv6:2001:db8:0:0:0:0:0:1`, some clients
 * put brackets around them, Postfix sends `2001:db8::1`. The digits stay as they are.
 */
export function plainAddress(address: string): string {
  return address.replace(/^\[(.*)\]$/, '$1').replace(/^ipv6:/i, '');
}
