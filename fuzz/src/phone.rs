//! What people type as a phone number: the first line names the country, all that follows is the number.

use hairpin::phone::{Country, Phone};
use hairpin::secret::SecretText;

/// Whatever the numbering plan takes is taken in every other spelling of it as well; whatever leaves is masked.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (code, text) = super::line(text);
    let here = Country::parse("RU").expect("RU has telephones");
    let country = match Country::parse(code) {
        Ok(country) => {
            assert_eq!(country.code(), code.trim().to_ascii_uppercase());
            country
        }
        Err(refusal) => {
            assert_eq!(refusal.reason(), "unknown_country");
            here
        }
    };
    let phone = Phone::parse(text, country);
    let wide: String = text.chars().map(widened).collect();
    assert!(Phone::parse(&wide, country) == phone, "in wide digits");
    let phone = match phone {
        Ok(phone) => phone,
        Err(refusal) => {
            assert!(
                !refusal
                    .to_string()
                    .chars()
                    .any(|sign| sign.is_ascii_digit())
            );
            return;
        }
    };
    let digits = phone.digits();
    assert!((7..=15).contains(&digits.len()), "E.164");
    assert!(digits.bytes().all(|digit| digit.is_ascii_digit()));
    // Its whole forms are that number, wherever they are read.
    let others = SecretText::from(format!("00{digits}"));
    for form in [phone.e164(), phone.international(), others] {
        for country in [country, here] {
            assert!(
                Phone::parse(form.reveal(), country).as_ref() == Ok(&phone),
                "in full"
            );
        }
    }
    assert!(
        Phone::from_e164_digits(digits).as_ref() == Ok(&phone),
        "as WhatsApp writes it"
    );
    assert!(phone.same_line(&phone));
    let key = phone.line_key();
    let key = key.reveal();
    assert!(key.len() <= digits.len() && key.bytes().all(|digit| digit.is_ascii_digit()));
    // The key's own line is the same one, where the plan knows the key as a number at all.
    if let Ok(other) = Phone::from_e164_digits(key) {
        assert!(other.same_line(&phone), "a line has one key");
    }
    let tail = &digits[digits.len() - 3..];
    let masked = phone.masked();
    let expected = match digits.len() {
        ..10 => format!("***{tail}"),
        10.. => format!("{}***{tail}", &digits[..5]),
    };
    assert_eq!(masked, expected);
    assert_eq!(phone.to_string(), masked);
    assert_eq!(format!("{phone:?}"), format!("Phone({masked})"));
    assert_eq!(format!("{phone:#?}"), format!("Phone({masked})"));
}

fn widened(sign: char) -> char {
    match sign {
        '0'..='9' => char::from_u32(u32::from(sign) - u32::from('0') + 0xff10).unwrap_or(sign),
        _ => sign,
    }
}
