//! Owns phone numbers: a [`Phone`] exists only if the numbering plan knows it, and it never shows itself whole by accident.
//! The rules are contract section 2; the numbering plan is libphonenumber's, through `rlibphonenumber`.

use std::fmt;

use rlibphonenumber::{
    ParseError, PhoneNumber, PhoneNumberFormat, PhoneNumberType, Region, ValidationError,
};
use zeroize::Zeroizing;

use crate::error::Code;
use crate::mask;
use crate::secret::SecretText;

/// Longer texts are no phone numbers: something else was pasted.
const MOST_CHARS: usize = 64;
/// E.164 allows 15 digits; a `00` or a trunk prefix may stand before them.
const MOST_DIGITS: usize = 20;

/// A phone number that the numbering plan knows. Shows itself masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Phone {
    digits: Zeroizing<String>,
    country: Option<Country>,
    kind: &'static str,
}

/// An ISO 3166 region that has telephones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Country(Region);

/// Why a text is no phone number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum PhoneError {
    /// There is nothing to read.
    Empty,
    /// Letters, or signs that no number has.
    Letters,
    /// Fewer digits than any number of the country.
    TooShort,
    /// More digits than any number of the country.
    TooLong,
    /// A number with an extension: WhatsApp has none.
    Extension,
    /// The numbering plan has no such number.
    NotInPlan,
    /// More text than a number can be.
    TooMuchText,
    /// No such country.
    UnknownCountry,
}

impl PhoneError {
    /// The error code of contract section 5.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::UnknownCountry => Code::InvalidCountryCode,
            _ => Code::InvalidPhoneFormat,
        }
    }

    /// The `reason` of contract section 2.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Letters => "letters",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Extension => "extension",
            Self::NotInPlan => "not_in_plan",
            Self::TooMuchText => "too_much_text",
            Self::UnknownCountry => "unknown_country",
        }
    }
}

impl Country {
    /// Reads a two-letter code, in either case.
    ///
    /// # Errors
    /// [`PhoneError::UnknownCountry`] when no country with telephones has it.
    pub fn parse(code: &str) -> Result<Self, PhoneError> {
        let code = code.trim();
        if code.len() != 2 || !code.bytes().all(|letter| letter.is_ascii_alphabetic()) {
            return Err(PhoneError::UnknownCountry);
        }
        let region = Region::from_code(&code.to_ascii_uppercase())
            .map_err(|_| PhoneError::UnknownCountry)?;
        rlibphonenumber::PHONE_NUMBER_UTIL
            .get_country_code_for_region(region)
            .map(|_| Self(region))
            .ok_or(PhoneError::UnknownCountry)
    }

    /// Every country with telephones, and its calling code.
    pub fn all() -> impl Iterator<Item = (Self, i32)> {
        let plan = &rlibphonenumber::PHONE_NUMBER_UTIL;
        let regions = plan.get_supported_regions();
        regions.filter_map(|region| Some((Self(region), plan.get_country_code_for_region(region)?)))
    }

    /// The two-letter code.
    #[must_use]
    pub fn code(self) -> String {
        self.0.as_region_str().as_str().to_owned()
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_region_str().as_str())
    }
}

impl Phone {
    /// Reads what people type: a number of `country`, or one with its country code.
    ///
    /// # Errors
    /// Why the text is no phone number.
    pub fn parse(text: &str, country: Country) -> Result<Self, PhoneError> {
        let text = cleaned(text)?;
        let digits = text.chars().filter(char::is_ascii_digit).count();
        let refusal = match plan(&text, Some(country)) {
            Ok(phone) => return Ok(phone),
            Err(refusal) => refusal,
        };
        if digits >= 11
            && !text.starts_with('+')
            && let Ok(phone) = plan(&format!("+{}", *text), None)
        {
            return Ok(phone);
        }
        Err(refusal)
    }

    /// Reads a number as WhatsApp writes it: E.164 digits without `+`.
    /// A number that the plan does not know is taken as it is: WhatsApp knows it.
    ///
    /// # Errors
    /// When it is not 7 to 15 digits.
    pub fn from_e164_digits(digits: &str) -> Result<Self, PhoneError> {
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(PhoneError::Letters);
        }
        fits_e164(digits)?;
        Ok(plan(&format!("+{digits}"), None).unwrap_or_else(|_| Self {
            digits: Zeroizing::new(digits.to_owned()),
            country: None,
            kind: "unknown",
        }))
    }

    /// The whole number, E.164 without `+`: for WhatsApp, and for whoever just typed it.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.digits
    }

    /// The whole number with its `+`: for whoever just typed it.
    #[must_use]
    pub fn e164(&self) -> SecretText {
        SecretText::new(format!("+{}", *self.digits))
    }

    /// The whole number as its country writes it for others, `+7 900 123-45-67`: for whoever just typed it.
    #[must_use]
    pub fn international(&self) -> SecretText {
        let e164 = self.e164();
        match PhoneNumber::parse(e164.reveal(), None) {
            Ok(number) => SecretText::new(
                number
                    .format_as(PhoneNumberFormat::International)
                    .into_owned(),
            ),
            Err(_) => e164,
        }
    }

    /// The country the number belongs to, where the plan says it.
    #[must_use]
    pub fn country(&self) -> Option<Country> {
        self.country
    }

    /// What the plan calls it: `mobile`, `fixed_line`, …
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// How the number leaves the program.
    #[must_use]
    pub fn masked(&self) -> String {
        mask::digits(&self.digits)
    }

    /// Digits that are equal exactly for the same line.
    ///
    /// WhatsApp rewrites the numbers of three countries: Brazil's mobiles lose their ninth digit, Mexico's
    /// gain or lose a `1`, Argentina's a `9`. The shorter form is the key.
    #[must_use]
    pub fn line_key(&self) -> SecretText {
        SecretText::new(line_key(&self.digits))
    }

    /// Whether both numbers are one line.
    #[must_use]
    pub fn same_line(&self, other: &Self) -> bool {
        self.line_key() == other.line_key()
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phone({})", self.masked())
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// What WhatsApp can write of a number, and what is read again from the store.
fn fits_e164(digits: &str) -> Result<(), PhoneError> {
    match digits.len() {
        ..7 => Err(PhoneError::TooShort),
        7..=15 => Ok(()),
        16.. => Err(PhoneError::TooLong),
    }
}

fn line_key(digits: &str) -> String {
    let bytes = digits.as_bytes();
    let digit = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    match (digits.get(..2), digits.len()) {
        // 55 + area + 9 + eight digits. Eight digits from 2 to 5 are a fixed line of their own.
        (Some("55"), 13) if digit(4) == b'9' && !(b'2'..=b'5').contains(&digit(5)) => {
            format!("{}{}", &digits[..4], &digits[5..])
        }
        (Some("52"), 13) if digit(2) == b'1' => format!("52{}", &digits[3..]),
        (Some("54"), 13) if digit(2) == b'9' => format!("54{}", &digits[3..]),
        _ => digits.to_owned(),
    }
}

/// The text with plain digits, plain separators and no invisible signs; `00` made `+`.
fn cleaned(text: &str) -> Result<Zeroizing<String>, PhoneError> {
    if text.chars().count() > MOST_CHARS {
        return Err(PhoneError::TooMuchText);
    }
    let plain: Zeroizing<String> =
        Zeroizing::new(text.chars().filter_map(plain_char).collect::<String>());
    let mut rest = plain.trim();
    if let Some(number) = rest
        .get(..4)
        .filter(|scheme| scheme.eq_ignore_ascii_case("tel:"))
        .and_then(|_| rest.get(4..))
    {
        rest = number.trim_start();
    }
    if rest.is_empty() {
        return Err(PhoneError::Empty);
    }
    if has_extension(rest) {
        return Err(PhoneError::Extension);
    }
    if rest.chars().any(|sign| !is_number_sign(sign)) {
        return Err(PhoneError::Letters);
    }
    let digits: Zeroizing<String> =
        Zeroizing::new(rest.chars().filter(char::is_ascii_digit).collect());
    if digits.is_empty() {
        return Err(PhoneError::Empty);
    }
    if digits.len() > MOST_DIGITS {
        return Err(PhoneError::TooLong);
    }
    let lead = rest
        .find(|sign: char| sign.is_ascii_digit())
        .unwrap_or(rest.len());
    let (before, after) = rest.split_at(lead);
    if after.contains('+') {
        return Err(PhoneError::NotInPlan);
    }
    let international = before.contains('+');
    Ok(Zeroizing::new(if international {
        format!("+{}", *digits)
    } else if let Some(number) = digits.strip_prefix("00") {
        format!("+{number}")
    } else {
        digits.to_string()
    }))
}

/// Full-width and other decimal digits as ASCII, spaces and dashes of every kind as one, invisible signs away.
fn plain_char(sign: char) -> Option<char> {
    match sign {
        '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => None,
        '\u{ff10}'..='\u{ff19}' => char::from_digit(u32::from(sign) - 0xff10, 10),
        '\u{0660}'..='\u{0669}' => char::from_digit(u32::from(sign) - 0x0660, 10),
        '\u{06f0}'..='\u{06f9}' => char::from_digit(u32::from(sign) - 0x06f0, 10),
        '\u{ff0b}' => Some('+'),
        '\u{ff08}' => Some('('),
        '\u{ff09}' => Some(')'),
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}' | '\u{ad}' => Some('-'),
        _ if sign.is_whitespace() => Some(' '),
        _ => Some(sign),
    }
}

fn is_number_sign(sign: char) -> bool {
    sign.is_ascii_digit()
        || matches!(
            sign,
            ' ' | '(' | ')' | '[' | ']' | '-' | '.' | '/' | '+' | '~' | '·'
        )
}

/// A number, then a mark, then more digits: `ext. 890`, `доб. 12`, `x12`, `#12`.
fn has_extension(text: &str) -> bool {
    let lower = text.to_lowercase();
    ["ext", "доб", "вн", "x", "х", "#", ";"].iter().any(|mark| {
        lower.find(mark).is_some_and(|at| {
            let (number, rest) = lower.split_at(at);
            number.chars().all(is_number_sign)
                && number.chars().filter(char::is_ascii_digit).count() >= 3
                && rest
                    .trim_start_matches(|sign: char| !sign.is_ascii_digit())
                    .chars()
                    .next()
                    .is_some()
        })
    })
}

/// Asks the numbering plan.
fn plan(text: &str, country: Option<Country>) -> Result<Phone, PhoneError> {
    let number = PhoneNumber::parse(text, country.map(|country| country.0)).map_err(|error| {
        match error {
            ParseError::TooShortNsn | ParseError::TooShortAfterIdd => PhoneError::TooShort,
            ParseError::TooLongNsn => PhoneError::TooLong,
            // A single digit does not even look like a number to the plan.
            ParseError::NotANumber(_) => PhoneError::TooShort,
            ParseError::InvalidCountryCode => PhoneError::NotInPlan,
        }
    })?;
    if let Some(number) = valid_form(&number) {
        let digits = number.format_as(PhoneNumberFormat::E164);
        let digits = Zeroizing::new(digits.trim_start_matches('+').to_owned());
        // The plan of a country may go beyond what a number may have in the world.
        fits_e164(&digits)?;
        return Ok(Phone {
            digits,
            country: number.get_region_code().map(Country),
            kind: kind(number.get_type()),
        });
    }
    Err(match number.is_possible_with_reason() {
        Err(ValidationError::TooShort) => PhoneError::TooShort,
        Err(ValidationError::TooLong) => PhoneError::TooLong,
        Ok(rlibphonenumber::NumberLengthType::IsPossibleLocalOnly) => PhoneError::TooShort,
        // Between two lengths that the country has: what people mean is a mobile.
        Err(ValidationError::InvalidLength) => match mobile_length(number.country_code) {
            Some(length) if number.get_national_significant_number().len() > length => {
                PhoneError::TooLong
            }
            Some(_) => PhoneError::TooShort,
            None => PhoneError::NotInPlan,
        },
        _ => PhoneError::NotInPlan,
    })
}

/// How many digits a mobile of the calling code's main country has, country code left out.
fn mobile_length(calling_code: i32) -> Option<usize> {
    let plan = &rlibphonenumber::PHONE_NUMBER_UTIL;
    let region = plan.get_region_for_country_code(calling_code)?;
    plan.get_example_number_for_type_and_region(region, PhoneNumberType::Mobile)
        .ok()
        .map(|example| example.get_national_significant_number().len())
}

/// The number itself if the plan knows it, else another spelling of the same line that it knows.
fn valid_form(number: &PhoneNumber) -> Option<PhoneNumber> {
    if number.is_valid() {
        return Some(number.clone());
    }
    let national = number.get_national_significant_number();
    let other = match (number.country_code, national.len()) {
        (55, 10) => format!("+55{}9{}", &national[..2], &national[2..]),
        (52, 11) if national.starts_with('1') => format!("+52{}", &national[1..]),
        (54, 10) => format!("+549{national}"),
        (54, 11) if national.starts_with('9') => format!("+54{}", &national[1..]),
        _ => return None,
    };
    PhoneNumber::parse(&other, None)
        .ok()
        .filter(PhoneNumber::is_valid)
        .filter(|form| line_key(&spelled(form)) == line_key(&spelled(number)))
}

fn spelled(number: &PhoneNumber) -> String {
    format!(
        "{}{}",
        number.country_code,
        number.get_national_significant_number()
    )
}

const fn kind(kind: PhoneNumberType) -> &'static str {
    match kind {
        PhoneNumberType::FixedLine => "fixed_line",
        PhoneNumberType::Mobile => "mobile",
        PhoneNumberType::FixedLineOrMobile => "fixed_line_or_mobile",
        PhoneNumberType::TollFree => "toll_free",
        PhoneNumberType::PremiumRate => "premium_rate",
        PhoneNumberType::SharedCost => "shared_cost",
        PhoneNumberType::VoIP => "voip",
        PhoneNumberType::PersonalNumber => "personal_number",
        PhoneNumberType::Pager => "pager",
        PhoneNumberType::UAN => "uan",
        PhoneNumberType::VoiceMail => "voicemail",
        PhoneNumberType::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ru(text: &str) -> Result<Phone, PhoneError> {
        Phone::parse(text, Country::parse("RU").expect("RU has telephones"))
    }

    /// The German plan knows numbers of sixteen digits. One was accepted, and could not be read again.
    #[test]
    fn a_number_longer_than_any_in_the_world_is_too_long_whatever_its_country_says() {
        for text in ["+49 652 4291 9563342", "4965242919563342"] {
            assert_eq!(ru(text).err(), Some(PhoneError::TooLong), "{text}");
        }
    }

    #[test]
    fn every_way_to_type_a_russian_number_is_the_same_number() {
        for text in [
            "89001234567",
            "+79001234567",
            "9001234567",
            "8 (900) 123-45-67",
            "+7 900 123-45-67",
            "0079001234567",
            "79001234567",
            "８９００１２３４５６７",
            "\u{202a}+7\u{a0}(900) 123\u{2011}45\u{2011}67\u{202c}",
            "tel:+79001234567",
            " 8.900.123.45.67 ",
        ] {
            let phone = ru(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(phone.e164().reveal(), "+79001234567", "{text}");
            assert_eq!(phone.country().map(Country::code).as_deref(), Some("RU"));
            assert_eq!(phone.kind(), "mobile");
        }
    }

    #[test]
    fn a_foreign_number_without_its_plus_is_tried_once_more_with_it() {
        let phone = ru("5511987654321").expect("Brazilian");
        assert_eq!(phone.e164().reveal(), "+5511987654321");
        assert_eq!(phone.country().map(Country::code).as_deref(), Some("BR"));
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_own_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("   ", "empty"),
            ("()-", "empty"),
            ("123", "too_short"),
            ("7", "too_short"),
            ("1111111111", "not_in_plan"),
            ("+790012345678", "too_long"),
            ("890012345678", "too_long"),
            ("8 900 123-45-678", "too_long"),
            ("+7 900 123-45-6", "too_short"),
            ("+1-800-123-4567 ext. 890", "extension"),
            ("8 (900) 123-45-67 доб. 12", "extension"),
            ("8 900 123-45-67 x12", "extension"),
            ("call me", "letters"),
            ("8900abc4567", "letters"),
            ("79001234567@s.whatsapp.net", "letters"),
            ("+7900123456789012", "too_long"),
            ("+999123456789", "not_in_plan"),
            ("8900+1234567", "not_in_plan"),
        ] {
            let error = ru(text).expect_err(text);
            assert_eq!(error.reason(), reason, "{text}");
        }
        assert_eq!(
            ru(&"8".repeat(65)).expect_err("long").reason(),
            "too_much_text"
        );
        let error = Country::parse("XX").expect_err("no such country");
        assert_eq!(error.reason(), "unknown_country");
        assert_eq!(error.code(), Code::InvalidCountryCode);
        for code in ["", "R", "RUS", "ZZ", "001", "Р", "12"] {
            assert!(Country::parse(code).is_err(), "{code}");
        }
        assert!(Country::parse("ru").is_ok());
    }

    #[test]
    fn numbers_that_whatsapp_rewrites_stay_the_same_line() {
        let line = |digits: &str| Phone::from_e164_digits(digits).expect(digits);
        for (one, other) in [
            ("5511987654321", "551187654321"),
            ("5215512345678", "525512345678"),
            ("5491123456789", "541123456789"),
        ] {
            assert!(line(one).same_line(&line(other)), "{one} {other}");
        }
        for (one, other) in [
            ("551123456789", "5511923456789"),
            ("79001234567", "79001234568"),
            ("525512345678", "525512345679"),
            ("5511987654321", "5521987654321"),
        ] {
            assert!(!line(one).same_line(&line(other)), "{one} {other}");
        }
        // The form that the plan calls valid is the one that is kept.
        assert_eq!(line("551187654321").digits(), "5511987654321");
        assert_eq!(line("5215512345678").digits(), "525512345678");
        assert_eq!(
            ru("+55 11 8765-4321").expect("old form").digits(),
            "5511987654321"
        );
    }

    #[test]
    fn a_number_is_grouped_as_its_country_does() {
        for (typed, grouped) in [
            ("89001234567", "+7 900 123-45-67"),
            ("+55 11 987654321", "+55 11 98765-4321"),
            ("+447400123456", "+44 7400 123456"),
            ("+14155552671", "+1 415-555-2671"),
        ] {
            assert_eq!(ru(typed).expect(typed).international().reveal(), grouped);
        }
        let unknown = Phone::from_e164_digits("0000000").expect("taken as it is");
        assert_eq!(unknown.international().reveal(), "+0000000");
    }

    #[test]
    fn a_number_shows_itself_masked() {
        let phone = ru("89001234567").expect("valid");
        assert_eq!(phone.to_string(), "79001***567");
        assert_eq!(format!("{phone:?}"), "Phone(79001***567)");
    }

    /// One of the plan's own example numbers, of any country.
    fn example() -> impl Strategy<Value = String> {
        let all: Vec<String> = rlibphonenumber::PHONE_NUMBER_UTIL
            .get_supported_regions()
            .filter_map(|region| {
                rlibphonenumber::PHONE_NUMBER_UTIL
                    .get_example_number_for_type_and_region(region, PhoneNumberType::Mobile)
                    .ok()
            })
            .map(|number| number.format_as(PhoneNumberFormat::E164).into_owned())
            .collect();
        assert!(all.len() > 200, "the plan has examples");
        proptest::sample::select(all)
    }

    /// Forms of Brazilian, Mexican, Argentine and other lines, close enough to collide.
    fn form() -> impl Strategy<Value = String> {
        prop_oneof![
            ("55(11|21|85)9?[2-9][0-9]{3}432[01]"),
            ("521?55123456[0-9]{2}"),
            ("549?11234567[0-9]{2}"),
            ("790012345[0-9]{2}"),
        ]
    }

    proptest! {
        #[test]
        fn parsing_what_we_print_gives_the_same_number(example in example()) {
            let phone = ru(&example).expect("the plan's own example");
            prop_assert_eq!(&ru(phone.e164().reveal()).expect("printed"), &phone);
            prop_assert_eq!(&Phone::from_e164_digits(phone.digits()).expect("digits"), &phone);
        }

        #[test]
        fn same_line_is_an_equivalence(a in form(), b in form(), c in form()) {
            let [a, b, c] = [a, b, c].map(|digits| Phone::from_e164_digits(&digits).expect("digits"));
            prop_assert!(a.same_line(&a));
            prop_assert_eq!(a.same_line(&b), b.same_line(&a));
            if a.same_line(&b) && b.same_line(&c) {
                prop_assert!(a.same_line(&c));
            }
        }

        #[test]
        fn normal_form_keeps_the_line(digits in form()) {
            let phone = Phone::from_e164_digits(&digits).expect("digits");
            prop_assert_eq!(phone.line_key(), line_key(&digits).into());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), country in "[A-Za-z]{2}") {
            if let Ok(country) = Country::parse(&country) {
                let _ = Phone::parse(&text, country);
            }
            let _ = Phone::from_e164_digits(&text);
        }

        #[test]
        fn no_number_like_text_makes_it_panic(text in "[+0-9 ()x#.-]{0,40}") {
            let _ = ru(&text);
        }
    }
}
