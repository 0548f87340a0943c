"""Personal data: what is masked, what looks like it and stays, and that no text depends on another."""

import random
import re
import time

import pytest

from gpt.corpus.cleaning import Clean
from gpt.corpus.masking import mask_text
from tests.corpus.test_cleaning import PREPARE, document

PHONES = [
    "+44 20 7946 0958", "+1 (212) 555-0123", "+12125550123", "+1-800-555-0199", "+49 (0)30 1234567", "+49 170 1234567",
    "+33 1 23 45 67 89", "+33123456789", "+81-3-1234-5678", "+86 138 0013 8000", "+91 98765 43210", "+55 11 91234-5678",
    "+61 2 9876 5432", "+7 (495) 123-45-67", "+358 40 1234567", "(212) 555-0123", "212-555-0123", "212.555.0123",
    "1-800-555-0199", "1 (800) 555-0199", "01 23 45 67 89", "06.12.34.56.78", "020 7946 0958", "(020) 7946 0958",
    "0113 496 0123", "07700 900123", "01632 960123", "0170/1234567", "089-12345678", "(030) 1234567", "Tel: 123 45 67",
    "Tel.: 030 123456", "phone: 5551234", "Fax: 12345-678901", "Telefon: 0221 123456",
]  # fmt: skip
EMAILS = [
    "ann@example.org",
    "first.last+tag@mail.example.co.uk",
    "<o'neill@x.ie>",
    "a_b-c@[192.0.2.1]",
    f"{'x' * 64}@y.de",
]
NUMBERS = [
    "2024-03-04", "04.03.2024", "03/04/2024", "04-03-2024", "20240304", "2024-03-04T10:20:30+01:00", "1914-1918",
    "ISBN 978-3-16-148410-0", "978 0 306 40615 7", "ISBN 0-306-40615-2", "ISBN 9783161484100", "ISSN 0317-8471",
    "12345678901234", "1,234,567,890", "0.000123", "-12345.678", "123.456.789", "10.11.12", "123-45-6789", "1.5e+10",
    "3 + 12345678", "x+491701234567", "4111 1111 1111 1111", "de ad be ef 01 02 03 04 05 06", "01 02 03 04 05 06 07 08",
    "52.520008, 13.404954", "#1234567", "12:34:56", "lodash@4.17.21", "@decorator", "user@host", "10.0.0.1",
    "192.168.1.20", "127.0.0.1", "999.1.1.1", "v8.8.8.8", "8.8.8.8.8", "1.22.333.4444",
]  # fmt: skip


@pytest.mark.parametrize("phone", PHONES)
def test_a_telephone_number_is_masked_whole(phone: str) -> None:
    text, counts = mask_text(f"Ask at {phone}, or later.")
    assert counts == {"email": 0, "ip": 0, "phone": 1}
    assert re.fullmatch(r"Ask at ([A-Z]\w+\.?: |phone: )?\+1-202-555-01\d\d, or later\.", text, re.IGNORECASE)
    assert mask_text(text) == (text, {"email": 0, "ip": 0, "phone": 0})


@pytest.mark.parametrize("email", EMAILS)
def test_an_email_address_is_masked(email: str) -> None:
    text, counts = mask_text(f"Write to {email}: now")
    assert counts == {"email": 1, "ip": 0, "phone": 0}
    assert text.replace("<", "").replace(">", "") == "Write to email@example.com: now"


def test_public_addresses_of_the_internet_are_masked() -> None:
    text, counts = mask_text("from 8.8.8.8, 93.184.216.34:80 and (1.1.1.1).")
    assert counts == {"email": 0, "ip": 3, "phone": 0}
    assert text == "from 22.214.171.124, 126.96.36.199:80 and (188.8.131.52)."


@pytest.mark.parametrize("number", NUMBERS)
def test_what_only_looks_like_it_stays(number: str) -> None:
    text = f"It says {number} there."
    assert mask_text(text) == (text, {"email": 0, "ip": 0, "phone": 0})


def test_numbers_dates_and_isbns_at_random_stay() -> None:
    draw = random.Random(0).randint
    for _ in range(300):
        year, month, day = draw(1500, 2099), draw(1, 12), draw(1, 28)
        made = [
            f"{year}-{month:02}-{day:02} {draw(0, 23):02}:{draw(0, 59):02}",
            f"{day:02}.{month:02}.{year}, {month:02}/{day:02}/{year}",
            f"ISBN 978-{draw(0, 9)}-{draw(10, 99)}-{draw(10**5, 10**6 - 1)}-{draw(0, 9)}",
            f"{draw(1, 10**12)} {draw(1, 10**9):,} {draw(1, 10**6) / 997:.5f} {draw(100, 999)}-{draw(10, 99)}-{draw(1000, 9999)}",
            f"pp. {draw(100, 999)}-{draw(1000, 9999)}, no. 0{draw(100, 999)}-{draw(1000, 9999)}",
        ]  # fmt: skip
        assert mask_text("; ".join(made))[1] == {"email": 0, "ip": 0, "phone": 0}, made


@pytest.mark.parametrize("piece", ["x+y/", "@", "1.", "+1 ", "a.b@", "12 ", "(1", "0-", "a@b."])
def test_no_text_takes_for_ever(piece: str) -> None:
    """Twice the text takes about twice the time; with a search that goes back over it, four times."""

    def seconds(size: int) -> float:
        start = time.process_time()
        mask_text(piece * size + " a@b.co")
        return time.process_time() - start

    assert min(seconds(80_000) for _ in range(2)) < 12 * min(seconds(20_000) for _ in range(2)) + 0.1


def test_documents_are_masked_where_it_is_asked_for_and_each_by_itself() -> None:
    by_source = {"forum": {"clean": {"mask_personal_data": True}}}
    step = Clean(PREPARE.model_copy(update={"by_source": by_source}))
    texts = ["a@b.org and c@d.org", "e@f.org"]
    documents = [document(text, source=source) for source in ("web", "forum") for text in texts]
    documents[-1].metadata["is_code"] = True
    assert [each.text for each in step.run(documents)] == [
        *texts, "email@example.com and firstname.lastname@example.org", "email@example.com"
    ]  # fmt: skip
    assert step.report() == {"empty": 0, "masked": {"email": 3, "ip": 0, "phone": 0}}
