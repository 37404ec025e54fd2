// Which real mail servers, and other real parts, this machine has. Without them the tests that need one are skipped, unless
// MILTER_REQUIRE_REAL=1 says that they must run: then they fail and say what is missing.

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { root } from './built.js';
import { hasFullHostName } from './full-host-name.js';

const SENDMAIL_ROOT = process.env['MILTER_SENDMAIL_ROOT'] ?? '';

/** Where the pieces of Sendmail are: Debian's packages of it can't be installed next to Postfix, only unpacked. */
export const sendmailFiles = {
  binary: join(SENDMAIL_ROOT, 'usr/libexec/sendmail/sendmail'),
  m4: join(SENDMAIL_ROOT, 'usr/share/sendmail/cf/'),
};

const needed = {
  postfix: [
    [isRoot, 'Postfix can only be started by root'],
    [() => existsSync('/usr/sbin/postfix'), 'no Postfix: install the Debian package postfix'],
  ],
  sendmail: [
    [isRoot, 'Sendmail is run as root here'],
    [
      () => SENDMAIL_ROOT !== '' && existsSync(sendmailFiles.binary) && existsSync(sendmailFiles.m4),
      'no Sendmail: unpack (dpkg -x) the Debian packages sendmail-bin and sendmail-cf into a folder ' +
        'and set MILTER_SENDMAIL_ROOT to it',
    ],
    [hasFullHostName, 'Sendmail needs a host name with a dot, and unshare --uts to pretend one is not allowed here'],
    [() => existsSync('/usr/bin/m4'), "no m4, for Sendmail's configuration: install the Debian package m4"],
  ],
  systemd: [
    [
      () => ['socket-activate', 'notify', 'analyze'].every((name) => existsSync(`/usr/bin/systemd-${name}`)),
      'no systemd-socket-activate, systemd-notify and systemd-analyze: install the Debian package systemd',
    ],
  ],
  openssl: [[() => existsSync('/usr/bin/openssl'), 'no openssl: install the Debian package openssl']],
  haproxy: [[() => existsSync('/usr/sbin/haproxy'), 'no HAProxy: install the Debian package haproxy']],
  redis: [[() => existsSync('/usr/bin/redis-server'), 'no Redis: install the Debian package redis-server']],
  haraka: [
    [() => existsSync(`${root}examples/haraka/node_modules/Haraka`), 'no Haraka: npm ci --prefix examples/haraka'],
  ],
  opendkim: [
    [() => existsSync('/usr/sbin/opendkim'), 'no OpenDKIM: install the Debian package opendkim'],
    [() => existsSync('/usr/bin/openssl'), 'no openssl, for its key: install the Debian package openssl'],
  ],
  opendmarc: [
    [
      () => existsSync('/usr/sbin/opendmarc'),
      'no OpenDMARC: install the Debian packages opendmarc and dbconfig-no-thanks',
    ],
  ],
  clamav: [
    [() => existsSync('/usr/sbin/clamd'), 'no clamd: install the Debian package clamav-daemon'],
    [() => existsSync('/usr/sbin/clamav-milter'), 'no clamav-milter: install the Debian package clamav-milter'],
  ],
  libmilter: [
    [
      () => existsSync('/usr/bin/gcc') && existsSync('/usr/include/stdio.h'),
      'no C compiler: install the Debian packages gcc and libc6-dev',
    ],
    [() => existsSync('/usr/include/libmilter/mfapi.h'), 'no libmilter: install the Debian package libmilter-dev'],
  ],
  tshark: [[() => existsSync('/usr/bin/tshark'), 'no tshark: install the Debian package tshark']],
  tcpdump: [
    [isRoot, 'tcpdump captures for root alone'],
    [() => existsSync('/usr/bin/tcpdump'), 'no tcpdump: install the Debian package tcpdump'],
  ],
  chromium: [[() => existsSync('/usr/bin/chromium'), 'no Chromium: install the Debian package chromium']],
  pymilter: [
    [
      () => existsSync('/usr/lib/python3/dist-packages/Milter'),
      'no pymilter: install the Debian package python3-milter',
    ],
  ],
} satisfies Record<string, [here: () => boolean, otherwise: string][]>;

export type Part = keyof typeof needed;

/** What is in the way of using the part, or undefined when it can be used. */
export function missing(part: Part): string | undefined {
  return needed[part].find(([here]) => !here())?.[1];
}

/** For whoever starts a part: fails with what to install and set. */
export function demand(part: Part): void {
  const reason = missing(part);
  if (reason !== undefined) throw new Error(reason);
}

export const postfixHere = (): boolean => missing('postfix') === undefined;
export const sendmailHere = (): boolean => missing('sendmail') === undefined;

/** Options for a tap test that uses these parts. */
export function needs(...parts: Part[]): { skip?: string } {
  if (process.env['MILTER_REQUIRE_REAL'] === '1') return {};
  const reason = parts.map(missing).find((text) => text !== undefined);
  return reason === undefined ? {} : { skip: reason };
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}
