"""MQTT with mutual TLS, on paho."""

from tinyfleet_service.mqtt.client import Message, MqttClient

__all__ = ["Message", "MqttClient"]
