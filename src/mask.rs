//! Owns how a phone number leaves the program: masked (contract, "Words").

/// The shortest number whose beginning is shown too.
const LONG: usize = 10;

/// First five digits, `***`, last three; of numbers shorter than ten digits the last three only.
/// Anything but digits is left out first.
#[must_use]
pub fn digits(number: &str) -> String {
    let digits: Vec<char> = number.chars().filter(char::is_ascii_digit).collect();
    let tail: String = digits[digits.len().saturating_sub(3)..].iter().collect();
    if digits.len() < LONG {
        return format!("***{tail}");
    }
    let head: String = digits[..5].iter().collect();
    format!("{head}***{tail}")
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn a_number_keeps_its_ends_only() {
        assert_eq!(digits("79001234567"), "79001***567");
        assert_eq!(digits("+7 900 123-45-67"), "79001***567");
        assert_eq!(digits("1234567890"), "12345***890");
        assert_eq!(digits("123456789"), "***789");
        assert_eq!(digits("12"), "***12");
        assert_eq!(digits(""), "***");
    }
}
