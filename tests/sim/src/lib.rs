//! A simulated WhatsApp server and phone.
