"""What is masked, what is left alone, and that hostile text costs no more than its length."""

import time

import pytest

from modules.corpus.document import Document
from modules.corpus.personal_data import PLACEHOLDERS, mask, mask_personal_data

MASKED = [
    ("Write to jane.doe+news@mail.shop.co.uk, please.", "mail", "jane.doe+news@mail.shop.co.uk"),
    ("<a.b@gmx.de>", "mail", "a.b@gmx.de"),
    ("müller@posteo.de.", "mail", "müller@posteo.de"),
    ("card 4111 1111 1111 1111 ok", "card", "4111 1111 1111 1111"),
    ("4111-1111-1111-1111", "card", "4111-1111-1111-1111"),
    ("(378282246310005)", "card", "378282246310005"),
    ("3782 822463 10005", "card", "3782 822463 10005"),
    ("no. 5555555555554444.", "card", "5555555555554444"),
    ("from 81.2.69.142 at noon", "ip", "81.2.69.142"),
    ("http://81.2.69.142:80/2018/", "ip", "81.2.69.142"),
    ("81.2.69.142/index.html", "ip", "81.2.69.142"),
    ("[2a00:1450:4001:81b::200e]:80", "ip", "2a00:1450:4001:81b::200e"),
    ("2a00:1450:4001:081b:0000:0000:0000:200e.", "ip", "2a00:1450:4001:081b:0000:0000:0000:200e"),
    ("call +33 1 70 18 99 00 now", "phone", "+33 1 70 18 99 00"),
    ("+442071838750", "phone", "+442071838750"),
    ("(212) 736-5000", "phone", "(212) 736-5000"),
    ("212-736-5000,", "phone", "212-736-5000"),
    ("212.736.5000", "phone", "212.736.5000"),
    ("1-800-275-2273", "phone", "1-800-275-2273"),
    ("01 70 18 99 00", "phone", "01 70 18 99 00"),
    ("+1 (650) 253-0000", "phone", "+1 (650) 253-0000"),
    ("doing well: +49 (0)30 227-32152", "phone", "+49 (0)30 227-32152"),
]
LEFT_ALONE = [
    "user@example.com",  # RFC 2606
    "me@host.example.org",
    "user@localhost",
    "icon@2x.png",
    "getty@tty1.service",
    "lodash@4.17.21",
    "@decorator.name",
    "version 81.2.69.142",
    "v. 5.10.140.22",
    "section 22.1.4.3",
    "1.2.3.4",
    "foo-81.2.69.142.tar.gz",
    "1.3.6.1.4.1.311.60",  # an object identifier
    "net 81.2.69.0/24",
    "256.300.1.44",
    "10.0.0.1 192.168.1.1 127.0.0.1 169.254.3.4 224.0.0.251",
    "192.0.2.44 198.51.100.7 203.0.113.7",  # RFC 5737
    "2001:db8::1 fe80::1 ::1",  # RFC 3849
    "2000::/3",
    "std::vector a::b 12:34:56 x[::2]",
    "00:1b:44:11:3a:b7",
    "4111 1111 1111 1112",  # the check digit is wrong
    "1234567812345670",  # it is right, but no issuer begins with 1
    "1536249600000 1541030400000",  # milliseconds since 1970
    "ISBN 978-3-16-148410-0",
    "ISBN 0-306-40615-2",
    "9783161484100",
    "2018-09-12 12:34:56",
    "12/24/2018 10:20",
    "2001-2003 2004-2006",
    "1,234,567,890.12",
    "3.14159265358979",
    "0x123456789abcdef",
    "x = 1234567890",
    "1 000 000 000",
    "0 1 2 3 4 5 6 7 8 9",
    "1e+10000000",
    "100-200-3000",
    "(212) 555-0123",  # set apart for fiction
    "doi 10.1000/182",
]


@pytest.mark.parametrize(("text", "kind", "secret"), MASKED)
def test_personal_data_is_masked(text, kind, secret):
    assert mask(text) == (text.replace(secret, PLACEHOLDERS[kind]), {kind: 1})


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_only_looks_like_it_stays(text):
    assert mask(text) == (text, {})


def test_only_the_kinds_asked_for_are_masked():
    text = "a.b@gmx.de from 81.2.69.142"
    assert mask(text, ("ip",)) == ("a.b@gmx.de from |||IP_ADDRESS|||", {"ip": 1})


def test_counts_are_kept_with_the_document():
    document = Document("x", "a.b@gmx.de, c.d@gmx.de, 81.2.69.142", meta={"charset": "utf-8"})
    masked = mask_personal_data(document, kinds=("mail", "ip"))
    assert masked.meta == {"charset": "utf-8", "masked": {"mail": 2, "ip": 1}}
    assert mask_personal_data(masked, kinds=("mail", "ip")) is masked  # nothing is left to mask
    assert mask(masked.text)[0] == masked.text


HOSTILE = (
    *("1", "@", ":", "a", "(", "٣", "a@", "1 ", "1.", "1-", "a.", "+1", "+1 ", "@-", "((2", "22:"),
    *("4111 ", "4111-", "2001:", " 2001:", " 01 23", "a@a.", "x@a.", "0 .", " +33 1", "1-212-"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_megabyte_of_anything_takes_under_a_second(unit):
    hostile = "x@ 1234567 2001:1: " + unit * (10**6 // len(unit))
    began = time.process_time()
    mask(hostile)
    assert time.process_time() - began < 1
